"""The bundled demo model: its weights, the scenes it was trained on, and its training recipe."""

from __future__ import annotations

from pathlib import Path


def model_folder() -> Path:
    """Folder of the bundled demo model, a checkpoint like any other."""
    return Path(__file__).parent / "weights"
