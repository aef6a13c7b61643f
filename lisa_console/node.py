"""The console's process: rclpy on one thread, the web server on another."""

from __future__ import annotations

import logging
import signal
import ssl
import sys
import traceback
from pathlib import Path
from typing import Any

import cv2
import rclpy
from rclpy.exceptions import NameValidationException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from lisa_console.access import Access
from lisa_console.hub import Hub
from lisa_console.robot import RobotSide
from lisa_console.settings import Settings
from lisa_ros.errors import ConfigError, LisaError
from lisa_ros.ros.node import refusal

INSTALL = "the console needs aiohttp: pip install aiohttp, or apt install python3-aiohttp"


def serve(robot: RobotSide) -> Any:
    """The running web server of a robot's side. Raises ConfigError."""
    try:
        from lisa_console.server import Server
    except ImportError as error:
        raise ConfigError(INSTALL) from error
    settings = robot.settings
    access = Access(settings.host, settings.token, tuple(filter(None, settings.allowed_hosts)))
    hub = Hub(robot, _folder(settings.save_examples), _folder(settings.history_dir))
    server = Server(hub, access, settings.host, settings.port, tls_of(settings))
    robot.on_event = server.tell
    try:
        server.start()
    except OSError as error:
        place = f"host {settings.host!r}, port {settings.port}"
        reason = f"{error.strerror or error}; give another port, or 0 for a free one"
        raise ConfigError(f"{place} cannot be used: {reason}") from error
    return server


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Raises ConfigError for a certificate that cannot be used."""
    if not settings.certificate:
        return None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        tls.load_cert_chain(settings.certificate, settings.certificate_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"certificate {settings.certificate!r} cannot be used: {error}") from error
    return tls


def _folder(name: str) -> Path | None:
    return Path(name).expanduser() if name else None


def main(args: list[str] | None = None) -> int:
    """Runs the console until SIGINT or SIGTERM. Returns the process's exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    # Python's own handlers: rclpy's would end the context in the middle of a publish.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    cv2.setNumThreads(1)  # small pictures gain nothing by more, and the cores are needed elsewhere
    server = None
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        robot = RobotSide()
        server = serve(robot)
        # Without the token: everybody on the network reads /rosout.
        robot.get_logger().info(f"console of {robot.settings.node}: {server.address}")
        print(f"console: {server.url}", flush=True)
        spin(robot)
    except (LisaError, NameValidationException) as error:
        print(f"lisa_console: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # RCLError; it has no public name
        print(f"lisa_console: {refusal(error)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if server is not None:
            server.stop()
        rclpy.try_shutdown()
    return 0


def spin(robot: RobotSide) -> None:
    """Runs callbacks until ROS is shut down."""
    executor = SingleThreadedExecutor()
    executor.add_node(robot)
    while rclpy.ok():
        try:
            # A limit: Python's signal handlers run between waits only.
            executor.spin_once(timeout_sec=0.5)
        except ExternalShutdownException:
            return
        except Exception:  # a callback's fault must not end the console
            robot.get_logger().error(traceback.format_exc())


if __name__ == "__main__":
    sys.exit(main())
