"""docs/architecture.md says who may import whom; here the code is held to it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "lisa_ros"
MODULES = sorted(PACKAGE.rglob("*.py"))
SIBLINGS = {"ros", "training", "evaluation", "scenes"}


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, *, top_level_only: bool = False) -> set[str]:
    """Dotted names that a module imports; those for the type checker only do not count."""
    tree = ast.parse(file.read_text("utf-8"))
    hidden = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if node in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def roots(file: Path, **options: bool) -> set[str]:
    return {name.split(".")[0] for name in imports(file, **options)}


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_only_ros_imports_rclpy(file: Path) -> None:
    if name_of(file).split(".")[1:2] != ["ros"]:
        assert "rclpy" not in roots(file)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_only_model_and_training_define_networks(file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    bases = {ast.unparse(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases}
    if name_of(file).split(".")[1:2] not in (["model"], ["training"]):
        assert not any(base.endswith("nn.Module") for base in bases)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_siblings_do_not_see_each_other(file: Path) -> None:
    own = name_of(file).split(".")[1:2]
    for other in SIBLINGS - set(own):
        seen = {name for name in imports(file) if name.startswith(f"lisa_ros.{other}")}
        if own == ["training"] and other in ("scenes", "evaluation"):
            continue  # it trains on scenes, and keeps the model that evaluates best
        if own == ["evaluation"] and other == "scenes":
            continue
        if own == ["bag"]:
            no_ros = ("lisa_ros.perception.image_codec", "lisa_ros.runtime.status")  # nor do these know it
            seen -= {name for name in seen if name.startswith(no_ros)} | {"lisa_ros.ros"}
        if own == ["cli"]:
            continue  # the command line offers them all
        assert not seen


@pytest.mark.parametrize("name", ["segmentation", "errors"])
def test_plain_values_import_numpy_alone(name: str) -> None:
    allowed = {"numpy", "dataclasses", "__future__", "lisa_ros", "collections", "enum"}
    assert roots(PACKAGE / f"{name}.py") <= allowed


@pytest.mark.parametrize("file", [f for f in MODULES if "ros" in f.relative_to(PACKAGE).parts[:1]], ids=name_of)
def test_the_nodes_process_never_imports_torch(file: Path) -> None:
    heavy = {"torch", "transformers", "bitsandbytes", "sentencepiece"}
    assert not heavy & roots(file)
    assert not {n for n in imports(file) if n.startswith(("lisa_ros.lisa.segmenter", "lisa_ros.model."))}


@pytest.mark.parametrize("name", ["worker", "frame_memory", "cli", "__init__"])
def test_these_start_without_torch(name: str) -> None:
    heavy = {
        "torch",
        "transformers",
        "lisa_ros.lisa.segmenter",
        "lisa_ros.lisa.weights.checkpoint",
        "lisa_ros.lisa.weights.tensors",
    }
    file = PACKAGE / f"{name}.py"
    assert not heavy & (roots(file, top_level_only=True) | imports(file, top_level_only=True))


def test_the_core_imports_no_program_above_it() -> None:
    above = {"cli", "worker", "worker_process", *SIBLINGS}
    for file in MODULES:
        parts = name_of(file).split(".")
        if parts[1:2] == ["model"] or parts[1:] in (["segmenter"], ["checkpoint"], ["tensors"], ["prompt"], ["draft"]):
            assert not {n for n in imports(file) if n.split(".")[1:2] and n.split(".")[1] in above}


def test_no_module_is_a_drawer_for_anything() -> None:
    assert not {file.stem for file in MODULES} & {"utils", "util", "common", "helpers", "misc"}


def test_the_node_has_no_threads_for_small_matrices_and_tells_the_model_nothing() -> None:
    script = """
import os
import lisa_ros.ros
import numpy
numpy.ones((500, 500)) @ numpy.ones((500, 500))
print(len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=PACKAGE.parent)
    assert said.stdout.split() == ["1", "None"], said
