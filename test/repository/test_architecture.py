"""The layers of docs/architecture.md hold: who may import whom, and where torch and ROS may be imported."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "architecture.md"
PACKAGES = ("lisa_ros", "lisa_small", "lisa_sim", "lisa_console")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

TORCH = {
    "accelerate",
    "bitsandbytes",
    "peft",
    "safetensors",
    "sentencepiece",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
}
ROS = {"ament_index_python", "launch", "launch_ros", "rclpy", "std_srvs", "tf2_ros"}


@dataclass(frozen=True)
class Layer:
    """What a folder (or a module) of the tree may import.

    Args:
        imports: Layers of this project, all of them lower ones.
        torch: Whether torch and what builds on it may be imported.
        ros: Whether rclpy and ROS messages may be imported.
    """

    imports: tuple[str, ...] = ()
    torch: bool = False
    ros: bool = False


BASE = "base"  # the modules that lie directly in lisa_ros
# From the bottom to the top. docs/architecture.md has the same table.
LAYERS = {
    BASE: Layer(),
    "engine": Layer((BASE,)),
    "perception": Layer((BASE, "engine")),
    "data": Layer((BASE, "engine", "perception")),
    "lisa": Layer((BASE, "engine", "perception"), torch=True),
    "extractive": Layer((BASE, "engine", "perception", "data", "lisa"), torch=True),
    "grounded": Layer((BASE, "engine", "perception", "lisa"), torch=True),
    "runtime": Layer((BASE, "engine", "perception")),
    "remote": Layer((BASE, "engine", "perception", "runtime")),
    "bag": Layer((BASE, "engine", "perception", "runtime")),
    "evaluation": Layer((BASE, "engine", "perception", "data")),
    "training": Layer((BASE, "engine", "perception", "data", "lisa", "extractive", "evaluation"), torch=True),
    "ros": Layer((BASE, "engine", "perception", "runtime"), ros=True),
    "cli": Layer(
        (
            BASE,
            "engine",
            "perception",
            "data",
            "lisa",
            "extractive",
            "grounded",
            "runtime",
            "remote",
            "bag",
            "evaluation",
            "training",
        )
    ),
    "lisa_small": Layer(
        (BASE, "engine", "perception", "data", "lisa", "extractive", "evaluation", "training"), torch=True
    ),
    "lisa_sim": Layer((BASE, "engine", "perception", "data", "ros", "lisa_small"), ros=True),
    "lisa_console": Layer((BASE, "perception", "data", "ros"), ros=True),
}
NETWORKS = ("lisa_ros.lisa.model.", "lisa_ros.extractive.", "lisa_ros.training.", "lisa_small.")
BASE_MODULES = {file.stem for file in (ROOT / "lisa_ros").glob("*.py")} - {"__init__"}


def layer_of(dotted: str) -> str:
    """Layer of a module: ``lisa_ros.ros.node`` -> ``ros``; ``lisa_ros`` itself has none and gives an empty text."""
    parts = dotted.split(".")
    if parts[0] in PACKAGES[1:]:
        return parts[0]
    if len(parts) == 1:
        return ""
    return BASE if parts[1] in BASE_MODULES else parts[1]


def name_of(file: Path) -> str:
    """Dotted name of a module."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """Dotted names of all modules that ``file`` imports, inside functions and for the type checker too."""
    return set(_imports(ast.parse(file.read_text("utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module in PACKAGES:  # `from lisa_ros import errors` names a module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def is_ros(dotted: str) -> bool:
    """Whether a module belongs to ROS, the generated messages of this package included."""
    root = dotted.split(".")[0]
    generated = re.match(r"lisa_ros\.(msg|srv|action)\b", dotted) is not None
    return generated or root in ROS or root.endswith(("_msgs", "_interfaces"))


def own_imports(file: Path) -> set[str]:
    """Layers that ``file`` imports, its own left out."""
    layers = {layer_of(name) for name in imports(file) if name.split(".")[0] in PACKAGES and not is_ros(name)}
    return (layers & set(LAYERS)) - {layer_of(name_of(file))}


def run(script: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


modules = pytest.mark.parametrize("file", [file for file in FILES if layer_of(name_of(file))], ids=name_of)


# --- the picture is the tree


def test_every_folder_of_the_tree_is_a_layer() -> None:
    folders = {file.relative_to(ROOT / "lisa_ros").parts[0] for file in FILES if file.is_relative_to(ROOT / "lisa_ros")}
    assert {name for name in folders if not name.endswith(".py")} | {BASE, *PACKAGES[1:]} == set(LAYERS)


def test_layers_import_lower_ones_only() -> None:
    names = list(LAYERS)
    for name, layer in LAYERS.items():
        assert set(layer.imports) <= set(names[: names.index(name)]), name


def test_the_table_of_the_document_is_the_one_of_this_test() -> None:
    """The base is named once, above the table."""
    documented = {}
    for line in re.findall(r"^\| `lisa_.*", PICTURE.read_text("utf-8"), re.M):
        layer, _, own, torch, ros = (cell.strip() for cell in line.strip("|").split("|"))
        name = BASE if layer == "`lisa_ros/*.py`" else Path(layer.strip("`")).name
        documented[name] = Layer(tuple(re.findall(r"\w+", own)), torch == "yes", ros == "yes")
    expected = {
        name: Layer(tuple(own for own in layer.imports if own != BASE), layer.torch, layer.ros)
        for name, layer in reversed(LAYERS.items())
    }
    assert documented == expected
    assert list(documented) == list(expected)


def tree_of_the_document() -> set[str]:
    """Paths of the tree in docs/architecture.md; two blanks for each level."""
    block = re.search(r"```text\n(lisa_ros/\n.*?)```", PICTURE.read_text("utf-8"), re.S)
    assert block, "docs/architecture.md has a block that begins with lisa_ros/"
    folders: list[str] = []
    paths = set()
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders[depth:] = [name]
        paths.add("".join(folders))
    return paths


def test_every_path_of_the_tree_in_the_document_exists() -> None:
    for path in tree_of_the_document():
        assert (ROOT / path).is_dir() if path.endswith("/") else (ROOT / path).is_file(), path


def test_the_tree_in_the_document_has_every_folder_and_every_box_of_the_figure() -> None:
    folders = {f"{file.parent.relative_to(ROOT).as_posix()}/" for file in FILES}
    boxes = {file.relative_to(ROOT).as_posix() for file in FILES if "lisa/model/" in file.as_posix()}
    missing = folders | {box for box in boxes if not box.endswith("__init__.py")}
    assert missing - tree_of_the_document() <= set()


# --- imports


@modules
def test_a_module_imports_what_its_layer_may(file: Path) -> None:
    layer = layer_of(name_of(file))
    extra = own_imports(file) - set(LAYERS[layer].imports)
    assert not extra, f"{name_of(file)} imports {sorted(extra)}; layer {layer} may import {LAYERS[layer].imports}"


@modules
def test_a_module_imports_torch_only_where_its_layer_may(file: Path) -> None:
    heavy = {name for name in imports(file) if name.split(".")[0] in TORCH}
    assert LAYERS[layer_of(name_of(file))].torch or not heavy


@modules
def test_a_module_imports_ros_only_where_its_layer_may(file: Path) -> None:
    assert LAYERS[layer_of(name_of(file))].ros or not {name for name in imports(file) if is_ros(name)}


@pytest.mark.parametrize(
    ("source", "layers"),
    [
        ("import lisa_ros.ros.node", {"ros"}),
        ("from lisa_ros import errors, __version__", {BASE}),
        ("def f():\n    from lisa_small.network.conv import ChannelNorm", {"lisa_small"}),
        ("if TYPE_CHECKING:\n    from lisa_ros.lisa.segmenter import Segmenter", {"lisa"}),
        ("from lisa_ros.msg import Mask", set()),
    ],
)
def test_every_kind_of_import_is_seen(source: str, layers: set[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "lisa_ros").mkdir()
    file = tmp_path / "lisa_ros" / "example.py"
    file.write_text(source)
    assert own_imports(file) == layers


@pytest.mark.parametrize("name", ["api.py", "support.py"])
def test_the_engine_interface_imports_numpy_alone(name: str) -> None:
    roots = {module.split(".")[0] for module in imports(ROOT / "lisa_ros/engine" / name)}
    assert roots - set(sys.stdlib_module_names) <= {"numpy", "lisa_ros"}


@modules
def test_networks_are_defined_in_these_packages_only(file: Path) -> None:
    """A box of the paper's figure is one file in lisa_ros/lisa/model/."""
    bases = {
        ast.unparse(base)
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    if any(base.startswith("nn.") or base.endswith("nn.Module") for base in bases):
        assert name_of(file).startswith(NETWORKS)


def test_no_module_is_a_drawer_for_anything() -> None:
    assert not {file.stem for file in FILES} & {"utils", "util", "common", "helpers", "misc"}


# --- what is loaded, seen in a process of its own

LOADED = """
import sys
{imports}
print(*sorted({{"torch", "transformers", "rclpy", "cv2", "lisa_small"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import lisa_ros", ""),
        ("import lisa_ros.engine.api, lisa_ros.engine.registry", ""),
        ("import lisa_ros; lisa_ros.load_engine", ""),
        ("import lisa_ros.cli", ""),
        ("import lisa_ros.runtime.worker", ""),
        ("import lisa_ros.runtime.tracker", "cv2"),
        ("import lisa_ros.cli.serve, lisa_ros.cli.evaluate", "cv2"),
        ("import lisa_ros.remote.engine, lisa_ros.remote.server", "cv2"),
        ("import lisa_ros.ros.node", "cv2 rclpy"),
    ],
)
def test_importing_loads_these_libraries_and_no_others(statement: str, loaded: str) -> None:
    """The node's process has ROS, but never torch."""
    assert run(LOADED.format(imports=statement)).strip() == loaded


def test_the_node_has_no_threads_for_small_matrices_and_leaves_the_worker_its_own() -> None:
    """OpenBLAS would start a thread for each core; the setting must not reach the worker's process."""
    script = """
import os
import lisa_ros.ros
import numpy
numpy.ones((500, 500)) @ numpy.ones((500, 500))
print(len(os.listdir("/proc/self/task")), os.environ.get("OPENBLAS_NUM_THREADS"))
"""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stdout.split() == ["1", "None"], done
