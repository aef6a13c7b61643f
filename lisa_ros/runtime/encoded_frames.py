"""The newest frames as the engine encoded them, for further commands about them."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.support import SupportedEngine


class EncodedFrames:
    """Keeps a bounded number of encoded frames, by a key of their pixels.

    Args:
        engine: Encodes.
        count: Most frames that are kept; 0 keeps none.
    """

    def __init__(self, engine: SupportedEngine, count: int) -> None:
        self._engine = engine
        self._count = count
        self._encoded: OrderedDict[bytes, Any] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        return key in self._encoded

    def get(self, key: bytes) -> Any:
        """The frame with this key; it was used now. Raises KeyError."""
        self._encoded.move_to_end(key)
        return self._encoded[key]

    def encode(self, key: bytes, pixels: Callable[[], NDArray[np.uint8]]) -> tuple[Any, float]:
        """Encode a frame and keep it.

        Args:
            key: Of the frame.
            pixels: Gives (H, W, 3) uint8 RGB, which nobody changes afterwards.

        Returns:
            The encoded frame, and the seconds that it took.
        """
        while len(self._encoded) >= max(self._count, 1):
            self._encoded.popitem(last=False)  # before the new one is made: the peak is the count, not one more
        begun = time.monotonic()
        encoded = self._engine.encode(pixels())
        if self._count:
            self._encoded[key] = encoded
        return encoded, time.monotonic() - begun

    def free_memory(self) -> None:
        """After an out-of-memory: free everything that can be made again."""
        self._encoded.clear()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
