"""What tests need from apt: installed by root, named to others, and never skipped for where it was installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from runpy import run_path

import pytest

NO_OPENGL = {"__EGL_VENDOR_LIBRARY_DIRS": "/nowhere"}  # the loader of OpenGL then finds no implementation
DRAWING = "test/small/test_rendered_scenes.py"


def run_drawing_tests(repository: Path, promised: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **NO_OPENGL, "LISA_TESTS_NEED": promised, "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", DRAWING]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=280)


def test_a_skip_for_opengl_is_printed_with_its_reason(repository: Path) -> None:
    done = run_drawing_tests(repository, promised="")
    assert done.returncode == 0, done.stdout
    assert "SKIPPED" in done.stdout
    assert "scenes cannot be drawn" in done.stdout


def test_a_skip_for_opengl_fails_where_make_test_has_installed_it(repository: Path) -> None:
    pytest.importorskip("mujoco", reason="nothing is promised without MuJoCo")
    done = run_drawing_tests(repository, promised="opengl")
    assert done.returncode == 1, done.stdout
    assert "LISA_TESTS_NEED promises opengl" in done.stdout


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without OpenGL and Chromium. Its apt-get writes what it is asked for to this file."""
    asked = tmp_path / "asked"
    apt_get = tmp_path / "bin/apt-get"
    apt_get.parent.mkdir()
    apt_get.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", str(apt_get.parent))
    for name, value in NO_OPENGL.items():
        monkeypatch.setenv(name, value)
    return asked


def run_script(repository: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    for module in ("mujoco", "playwright"):
        pytest.importorskip(module, reason=f"without {module} less is needed from apt")
    assert run_path(str(repository / "scripts/system_packages.py"))["main"]() == 0
    return capsys.readouterr()


def test_root_installs_what_is_missing_and_promises_it(repository, apt, monkeypatch, capsys) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    out, _ = run_script(repository, capsys)
    assert out.split() == ["opengl", "chromium"]
    commands = apt.read_text().splitlines()
    assert all(command.endswith("update") for command in commands[::2])
    first, second = commands[1::2]
    assert first.endswith("install --yes --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri")
    assert second.endswith("install --yes --no-install-recommends chromium fonts-dejavu-core")


def test_others_are_told_in_one_line_each_what_to_install(repository, apt, monkeypatch, capsys) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    out, err = run_script(repository, capsys)
    assert out == ""
    opengl, chromium = err.splitlines()
    assert "apt install libegl1 libegl-mesa0 libgl1-mesa-dri" in opengl
    assert "apt install chromium fonts-dejavu-core" in chromium
    assert not apt.exists()


def test_make_test_passes_on_what_is_promised(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    assert 'export LISA_TESTS_NEED="$$(python scripts/system_packages.py)"' in makefile
