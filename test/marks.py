"""Marks that every test gets by itself: node, weights, gpu, or unit where it is none of these (pyproject.toml)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
MARKS = ("node", "weights", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that were collected. A mark that a test has of its own stays."""
    for item in items:
        if item.path.is_relative_to(TESTS / "ros"):
            item.add_marker("node")
        elif needs_weights(item):
            item.add_marker("weights")
        if not any(item.get_closest_marker(mark) for mark in MARKS):
            item.add_marker("unit")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test for a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU that torch can use (CUDA)")


def needs_weights(item: pytest.Item) -> bool:
    """Whether a test asks for the bundled model's weights or the reference's full goldens.

    It does where its function, or a fixture that it takes, uses ``model_folder`` or ``GOLDENS``, and where it takes the
    fixture ``goldens`` or one of its files. Others say so themselves: ``@pytest.mark.weights``.
    """
    if "goldens" in getattr(item, "fixturenames", ()):
        return True
    arguments = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if any(isinstance(argument, Path) and "goldens" in argument.parts for argument in arguments):
        return True
    fixtures = getattr(item, "_fixtureinfo", None)
    functions = [item.function] if hasattr(item, "function") else []
    if fixtures:
        functions += [fixture.func for known in fixtures.name2fixturedefs.values() for fixture in known]
    return any({"model_folder", "GOLDENS"} & set(names_in(function)) for function in functions)


def names_in(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names that a function's code looks up outside itself."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code.co_names if code else ()
