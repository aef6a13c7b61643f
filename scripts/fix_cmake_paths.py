#!/usr/bin/env python3
"""Make the ROS wheels' CMake files point at this interpreter.

The wheels' exported CMake targets name the Python of the machine that built them (``/opt/python/cp311-cp311/...``), so
CMake stops with "includes non-existent path". This replaces those prefixes by the paths of the interpreter that runs
this script, in ``<prefix>/share/**/*.cmake``. Running it again changes nothing.
"""

import re
import sys
import sysconfig
from pathlib import Path

BUILDER_INCLUDE = re.compile(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+")
BUILDER_SITE_PACKAGES = re.compile(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages")


def fix(text: str, include: str, site_packages: str) -> str:
    """``text`` of a CMake file with the builder's two prefixes replaced."""
    # Functions as replacement: a backslash in a path stays a backslash.
    text = BUILDER_SITE_PACKAGES.sub(lambda _: site_packages, text)
    return BUILDER_INCLUDE.sub(lambda _: include, text)


def main() -> int:
    include, site_packages = sysconfig.get_path("include"), sysconfig.get_path("purelib")
    changed = 0
    for path in Path(sys.prefix, "share").glob("**/*.cmake"):
        text = path.read_text(encoding="utf-8")
        fixed = fix(text, include, site_packages)
        if fixed != text:
            path.write_text(fixed, encoding="utf-8")
            changed += 1
    print(f"      {changed} CMake files now name {sys.executable}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
