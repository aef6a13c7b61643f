"""COCO's run lengths, read here: pycocotools reads stray memory where they do not fill the picture exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DIGIT, _MORE, _NEGATIVE, _BITS = 0x1F, 0x20, 0x10, 5
_MOST_DIGITS = 13  # 65 bits


def decode_runs(part: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 of 0 and 1, of run lengths down the columns, zeros first.

    Args:
        part: ``size`` [height, width], and ``counts``: a list of numbers, or COCO's compressed text.
        size: (height, width) of the picture.

    Raises:
        KeyError, TypeError, ValueError: They are no run lengths, or not of the picture's size.
    """
    stated = part["size"]
    if not isinstance(stated, list | tuple) or tuple(stated) != tuple(size):
        raise ValueError(f"run lengths for {stated!r:.40} pixels (height, width), the picture has {list(size)}")
    counts = part["counts"]
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    lengths = _uncompress(counts) if isinstance(counts, bytes) else [_whole(count) for count in counts]
    if any(length < 0 for length in lengths):
        raise ValueError(f"a run length is {min(lengths)}")
    if sum(lengths) != size[0] * size[1]:
        raise ValueError(f"the run lengths cover {sum(lengths)} pixels, the picture has {size[0] * size[1]}")
    values = (np.arange(len(lengths)) % 2).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, lengths).reshape(size[1], size[0]).T)


def _whole(count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int | float) or count != int(count):
        raise TypeError(f"a run length is {count!r:.40}; it must be a whole number")
    return int(count)


def _uncompress(text: bytes) -> list[int]:
    """Numbers in digits of five bits, the lowest first; from the fourth on, each is added to the last but one."""
    lengths: list[int] = []
    value = digits = 0
    for character in text:
        digit = character - 48
        if not 0 <= digit < 64 or digits == _MOST_DIGITS:
            raise ValueError("the run lengths are damaged")
        value |= (digit & _DIGIT) << _BITS * digits
        digits += 1
        if digit & _MORE:
            continue
        if digit & _NEGATIVE:
            value -= 1 << _BITS * digits
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = digits = 0
    if digits:
        raise ValueError("the run lengths end in the middle of a number")
    return lengths
