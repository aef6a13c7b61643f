"""The console's web server needs aiohttp, and its messages rclpy's environment."""

from __future__ import annotations

import importlib.util

if importlib.util.find_spec("aiohttp") is None:
    collect_ignore_glob = ["test_console_server.py"]


def pytest_report_header() -> str | None:
    """Say why tests are missing, where they are."""
    if importlib.util.find_spec("aiohttp") is None:
        return "no aiohttp: the tests of the console's web server are left out (pip install aiohttp)"
    return None
