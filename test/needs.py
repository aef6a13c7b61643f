"""What a test needs and pip cannot bring: skipped where it is missing, an error where `make test` has installed it."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(need: str, reason: str) -> NoReturn:
    """Skip the test, or the module that is being imported, with ``reason``.

    Args:
        need: a name of scripts/system_packages.py, such as "opengl".
        reason: what is missing and how to install it.

    Raises:
        pytest.fail.Exception: LISA_TESTS_NEED names ``need``: it was installed, so a skip would hide a fault.
    """
    if need in os.environ.get("LISA_TESTS_NEED", "").split():
        pytest.fail(f"LISA_TESTS_NEED promises {need}, but {reason}")
    pytest.skip(reason, allow_module_level=True)
