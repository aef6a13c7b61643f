"""Each test has one of the marks by which a person chooses: unit, node, weights, gpu."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).resolve().parents[1] / "marks.py"
SUITE = """
import pytest
from pathlib import Path

def model_folder(): ...

@pytest.fixture
def model():
    return model_folder()

@pytest.fixture
def goldens(): ...

def test_plain(): ...
def test_bundled(): model_folder()
def test_bundled_by_fixture(model): ...
def test_full_goldens(goldens): ...
@pytest.mark.parametrize("folder", [Path("golden/ckpt"), Path("shared/goldens/A")], ids=["compact", "full"])
def test_parity(folder): ...
@pytest.mark.weights
def test_marked(): ...
@pytest.mark.gpu
def test_on_a_gpu(): ...
"""
EXPECTED = {
    "unit": {"test_plain", "test_parity[compact]"},
    "weights": {
        "test_bundled",
        "test_bundled_by_fixture",
        "test_full_goldens",
        "test_parity[full]",
        "test_marked",
    },
    "gpu": {"test_on_a_gpu"},
    "node": {"test_of_the_node"},
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder like this repository's test/, with the plugin."""
    tests = tmp_path / "test"
    (tests / "ros").mkdir(parents=True)
    (tests / "conftest.py").write_text(
        "import marks\ndef pytest_configure(config): config.pluginmanager.register(marks)\n"
    )
    (tests / "marks.py").write_text(PLUGIN.read_text())
    (tests / "test_suite.py").write_text(SUITE)
    (tests / "ros/test_node.py").write_text("def test_of_the_node(): ...\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = test\nmarkers =\n unit:\n node:\n weights:\n gpu:\n")
    return tmp_path


@pytest.mark.parametrize("mark", EXPECTED)
def test_a_mark_chooses_its_tests_and_no_others(suite: Path, mark: str) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", mark]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True)
    chosen = {line.split("::")[1] for line in done.stdout.splitlines() if "::" in line}
    assert chosen == EXPECTED[mark], done.stdout + done.stderr
