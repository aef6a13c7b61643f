"""Too little memory as an error of this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lisa_ros.errors import OutOfMemory


@contextmanager
def out_of_memory(doing: str) -> Iterator[None]:
    """Turn every error about too little memory into OutOfMemory, with advice.

    Args:
        doing: What is done inside, for the message.

    Raises:
        OutOfMemory: The host or the device has too little memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(_memory_advice(doing, error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise OutOfMemory(_memory_advice(doing, error)) from error


def _memory_advice(doing: str, error: BaseException) -> str:
    reason = str(error).splitlines()[0] if str(error) else "no memory left"
    return f"out of memory while {doing}: {reason}; use precision nf4 or int8, a smaller model or a smaller image"
