"""lisa_ros: say what you mean, get a mask.

    engine = lisa_ros.load_engine("LISA-7B-v1")

This module runs at every ``import lisa_ros.msg`` too, in processes that have neither torch nor a model: nothing heavy
belongs here.
"""

from __future__ import annotations

from pkgutil import extend_path
from typing import Any

# The built ROS interfaces (lisa_ros.msg, .srv, .action) live in another folder than a source checkout; found together.
__path__ = extend_path(__path__, __name__)

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """``load_engine``, imported when it is first used (PEP 562)."""
    if name == "load_engine":
        from lisa_ros.engine.registry import load_engine

        return load_engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
