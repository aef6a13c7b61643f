#!/usr/bin/env python3
"""Install what the tests need from apt, or name it.

For each need: try whether it works. If it does not, install its Debian packages where this runs as root, and name them
on standard error elsewhere. Prints the names of the needs that tests must not skip for: those that work, and those that
were to be installed. ``make test`` passes them on in ``LISA_TESTS_NEED`` (test/needs.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Need:
    """Something that tests use and pip cannot bring.

    Attributes:
        module: the Python module that uses it; without the module nothing is needed.
        probe: Python code that fails where the need is missing.
        packages: names of the packages in Debian and Ubuntu.
    """

    module: str
    probe: str
    packages: tuple[str, ...]


NEEDS = {
    "opengl": Need(
        module="mujoco",
        probe="from mujoco.egl import GLContext; GLContext(8, 8)",
        packages=("libegl1", "libegl-mesa0", "libgl1-mesa-dri"),
    ),
    "chromium": Need(
        module="playwright",
        probe="import shutil; assert shutil.which('chromium')",
        packages=("chromium", "fonts-dejavu-core"),
    ),
}


def works(need: Need) -> bool:
    """Whether the probe succeeds in a process of its own: a library that was loaded once stays loaded."""
    environment = {**os.environ, "MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl"}
    return subprocess.run([sys.executable, "-c", need.probe], env=environment, capture_output=True).returncode == 0


def install(packages: tuple[str, ...]) -> str:
    """Install ``packages`` by apt-get. Returns the last line of its complaint, "" where there is none."""
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=60"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # The lists of packages of a fresh container are empty.
    for command in ([*apt, "update"], [*apt, "install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]


def main() -> int:
    for name, need in NEEDS.items():
        if find_spec(need.module) is None:
            continue
        if not works(need):
            packages = " ".join(need.packages)
            if os.geteuid() != 0 or shutil.which("apt-get") is None:
                print(f"tests that need {name} are skipped; to run them: apt install {packages}", file=sys.stderr)
                continue
            print(f"{name} is missing: apt-get install {packages}", file=sys.stderr)
            complaint = install(need.packages)
            if complaint:
                print(f"{name} could not be installed: {complaint}", file=sys.stderr)
        print(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
