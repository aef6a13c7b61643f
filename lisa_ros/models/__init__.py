"""Models that come with the package."""

from __future__ import annotations

from pathlib import Path


def default_model() -> Path:
    """Folder of the small LISA, a checkpoint like any other."""
    return Path(__file__).parent / "small"
