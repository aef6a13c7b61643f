#!/usr/bin/env python3
"""How long a node takes to answer a parameter request, asked ten times a second, as a process of its own.

``parameter_requests.py /lisa:timeout_s /idle:use_sim_time`` asks each in turn and tells every round trip;
``parameter_requests.py --serve idle`` is a node that does nothing, to compare with: what it takes too is the machine's.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any

import rclpy
from children import die_with_parent, messages, say
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

PERIOD_S = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("asked", nargs="*", metavar="NODE:PARAMETER")
    parser.add_argument("--serve", metavar="NAME")
    arguments = parser.parse_args()
    die_with_parent()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(arguments.serve or "parameter_requests")
    executor, ending = SingleThreadedExecutor(), threading.Event()
    executor.add_node(node)

    def listen() -> None:
        for _ in messages():
            pass
        ending.set()
        executor.wake()

    threading.Thread(target=listen, daemon=True).start()
    if arguments.serve:
        while not ending.is_set():
            executor.spin_once()
    else:
        ask(node, executor, arguments.asked, ending)
    rclpy.shutdown()


def ask(node: Any, executor: SingleThreadedExecutor, asked: list[str], ending: threading.Event) -> None:
    """On schedule, whether the last one was answered or not: a node that is away for long costs many requests."""
    names = [name.partition(":")[::2] for name in asked]
    clients = [(name, node.create_client(GetParameters, f"{name}/get_parameters"), what) for name, what in names]
    number, due = 0, time.monotonic()
    while not ending.is_set():
        executor.spin_once(timeout_sec=max(due - time.monotonic(), 0.0))
        if time.monotonic() < due:
            continue
        due += PERIOD_S / len(clients)
        name, client, parameter = clients[number % len(clients)]
        number += 1
        if client.service_is_ready():
            begun = time.monotonic()
            say(to=name, number=number)
            future = client.call_async(GetParameters.Request(names=[parameter]))
            future.add_done_callback(
                lambda _, name=name, number=number, begun=begun: say(
                    to=name, number=number, took_s=time.monotonic() - begun
                )
            )


if __name__ == "__main__":
    main()
