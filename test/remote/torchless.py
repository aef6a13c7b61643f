"""For tests: an environment in which torch and what builds on it are not installed."""

from __future__ import annotations

import os
from pathlib import Path

ABSENT = ("torch", "transformers", "safetensors", "sentencepiece", "tokenizers", "huggingface_hub")

SITE = f"""
import sys


class Without:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else self._finder.find_spec(name, path, target)

    def invalidate_caches(self):
        self._finder.invalidate_caches()

    def find_distributions(self, *arguments):
        return self._finder.find_distributions(*arguments)


sys.meta_path[:] = [Without(finder) if "PathFinder" in str(finder) else finder for finder in sys.meta_path]
"""


def without_torch(folder: Path, *paths: Path) -> dict[str, str]:
    """Environment variables of such a process. folder: for a module. paths: first on PYTHONPATH."""
    (folder / "sitecustomize.py").write_text(SITE)
    given = filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *map(str, paths), *given])}
