"""``lisa serve``: answer the commands of clients that have no model, over HTTP."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import threading
from dataclasses import fields
from pathlib import Path

from lisa_ros.cli import model
from lisa_ros.cli.data_set import positive_count
from lisa_ros.engine.registry import check_model
from lisa_ros.errors import ConfigError
from lisa_ros.plain_text import EscapingFormatter, escaped
from lisa_ros.remote.commands import Limits
from lisa_ros.remote.wire import TOKEN_VARIABLE

PORT = 8000
SHUTDOWN_S = 5
"""Seconds that running commands have left after Ctrl-C or SIGTERM."""

Certificate = tuple[str | None, str | None]
"""Files of certificate and key; both None for http."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        f"The environment variable {TOKEN_VARIABLE} has the secret that every client must send. Clients are the "
        "node with model:=http://HOST:PORT and all verbs with --model http://HOST:PORT."
    )
    network = parser.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1); 0.0.0.0: all")
    network.add_argument("--port", type=int, default=PORT, help=f"0 takes a free one ({PORT})")
    network.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM), for https")
    network.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    network.add_argument("--no-token", action="store_true", help="serve everybody who can reach the port")
    limits = parser.add_argument_group("limits")
    for name, kind, what in (
        ("waiting", int, "commands that wait while one runs; a further one is answered BUSY"),
        ("timeout_s", float, "seconds from the arrival of a command to its answer"),
        ("kept_frames", int, "encoded frames that are kept for further commands"),
        ("max_image_pixels", int, "largest picture"),
    ):
        default = Limits.__dataclass_fields__[name].default
        flag = f"--{name.replace('_', '-')}"
        limits.add_argument(flag, type=kind, default=default, metavar="N", help=f"{what} ({default})")
    cluster = parser.add_argument_group("cluster (Ray)")
    cluster.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="serve replicas on a Ray cluster: auto, ray://HOST:PORT, or without an address on this computer alone",
    )
    cluster.add_argument("--replicas", type=positive_count, default=1, metavar="N", help="engines; the fewest (1)")
    cluster.add_argument("--max-replicas", type=positive_count, metavar="N", help="most engines, started under load")
    cluster.add_argument("--gpus-per-replica", type=float, metavar="N", help="may be a fraction (1, or 0 without GPUs)")
    cluster.add_argument("--cpus-per-replica", type=float, default=1.0, metavar="N", help="may be a fraction (1)")
    model.add_model_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Returns the exit code."""
    _log()
    token = _token(arguments)
    limits = _limits(arguments)
    certificate = _certificate(arguments)
    model.options(arguments)
    if arguments.ray is not None:
        return _serve_cluster(arguments, limits, token, certificate)
    return _serve_one(arguments, limits, token, certificate)


def _serve_one(arguments: argparse.Namespace, limits: Limits, token: str, certificate: Certificate) -> int:
    """One engine in this process."""
    import uvicorn

    from lisa_ros.remote.server import make_app
    from lisa_ros.runtime.worker_process import warm_up

    listening = _bind(arguments.host, arguments.port)  # before the model is loaded: a port in use is told at once
    model.warn_of_demo_model(arguments)
    engine = model.load(arguments)
    warm_up(engine)
    config = uvicorn.Config(
        make_app(engine, limits, token),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    config.ssl_certfile, config.ssl_keyfile = certificate
    host, port = listening.getsockname()[:2]
    _announce(engine.info.name, host, port, certificate)
    with contextlib.suppress(KeyboardInterrupt):  # raised again when all is closed
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _serve_cluster(arguments: argparse.Namespace, limits: Limits, token: str, certificate: Certificate) -> int:
    """Replicas on a Ray cluster. Raises ConfigError, LisaError."""
    from lisa_ros.remote import cluster

    most = arguments.max_replicas or 0
    if most and most < arguments.replicas:
        raise ConfigError(f"--max-replicas {most} is less than --replicas {arguments.replicas}; give at least as many")
    if not 0 < arguments.port < 2**16:
        raise ConfigError(f"--port {arguments.port}: with --ray, give a number from 1 to {2**16 - 1}")
    check_model(arguments.model)
    model.warn_of_demo_model(arguments)
    settings = cluster.ClusterSettings(
        arguments.model,
        arguments.device,
        arguments.precision,
        model.options(arguments),
        limits,
        token,
        arguments.ray,
        arguments.host,
        arguments.port,
        arguments.replicas,
        most,
        certificate,
        arguments.gpus_per_replica,
        arguments.cpus_per_replica,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends in order, too
    with contextlib.suppress(KeyboardInterrupt):
        try:
            cluster.start(settings)
            name = f"{arguments.model or 'the demo model'}, {arguments.replicas} replicas,"
            _announce(name, arguments.host, arguments.port, certificate)
            threading.Event().wait()
        finally:
            cluster.stop()
    return 0


def _announce(what: str, host: str, port: int, certificate: Certificate) -> None:
    where = f"[{host}]" if ":" in host else host
    print(f"serving {escaped(what)} at {'https' if certificate[0] else 'http'}://{where}:{port}", flush=True)


def _log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(EscapingFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _token(arguments: argparse.Namespace) -> str:
    """The secret. Raises ConfigError where others could reach a server without one."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and arguments.no_token:
        raise ConfigError(f"{TOKEN_VARIABLE} is set and --no-token is given; use one of them")
    if not token.isascii() or any(character.isspace() or not character.isprintable() for character in token):
        raise ConfigError(f"{TOKEN_VARIABLE} has blanks or characters that are not ASCII; use letters and digits")
    local = arguments.host in ("127.0.0.1", "::1", "localhost")
    if not token and not local and not arguments.no_token:
        raise ConfigError(
            f"--host {arguments.host} lets others reach the server; set {TOKEN_VARIABLE} to a secret, here and for "
            "every client, or add --no-token"
        )
    return token


def _limits(arguments: argparse.Namespace) -> Limits:
    """Raises ConfigError."""
    given = {field.name: getattr(arguments, field.name) for field in fields(Limits) if hasattr(arguments, field.name)}
    for name, value in given.items():
        least = {"waiting": 0, "kept_frames": 0, "timeout_s": 0.01}.get(name, 1)
        if not least <= value < float("inf"):
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: give a number from {least}")
    return Limits(**given)


def _certificate(arguments: argparse.Namespace) -> Certificate:
    """Files of certificate and key; both None for http. Raises ConfigError."""
    cert, key = arguments.tls_cert, arguments.tls_key
    if cert is None and key is None:
        return None, None
    for option, file in (("--tls-cert", cert), ("--tls-key", key)):
        if file is None or not file.is_file():
            raise ConfigError(f"{option} {file or ''}: there is no such file; https needs --tls-cert and --tls-key")
    return str(cert), str(key)


def _bind(host: str, port: int) -> socket.socket:
    """A socket that clients cannot reach until the server listens. Raises ConfigError."""
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port {port}: give a number from 0 to {2**16 - 1}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error}; choose another address or port") from error
    return listening
