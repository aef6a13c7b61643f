#!/usr/bin/env python3
"""Say at once, and with the way out, what this machine lacks for `make build`.

Runs before anything is installed, with whatever Python there is: no imports beyond the standard library, no syntax
newer than Python 3.6's.
"""

import os
import platform
import shutil
import sys
import sysconfig

WHEELS = ((3, 10), (3, 13))  # CPython versions that the ROS wheels exist for, both included


def problems():
    """What is missing, a sentence each."""
    version = sys.version_info[:2]
    if not WHEELS[0] <= version <= WHEELS[1]:
        yield (
            f"Python {version[0]}.{version[1]} has no ROS 2 wheels (3.10 to 3.13 have): "
            "make PYTHON=python3.12 build, with one that is installed"
        )
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        yield (
            f"the ROS 2 wheels are for Linux on x86-64, this is {platform.system()} on {platform.machine()}: "
            "use a ROS 2 installation (docs/building.md) or the library alone (pip install .)"
        )
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        yield "Python.h is missing, the messages' Python side needs it: apt install python3-dev"
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        yield "the module ensurepip is missing, a virtual environment needs it: apt install python3-venv"
    for compiler, names in (("C", ("cc", "gcc", "clang")), ("C++", ("c++", "g++", "clang++"))):
        if not any(shutil.which(name) for name in names):
            yield f"no {compiler} compiler: apt install build-essential"


def main():
    found = list(problems())
    for problem in found:
        print("cannot build here: " + problem, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
