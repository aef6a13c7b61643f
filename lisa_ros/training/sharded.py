"""Writes a checkpoint shard by shard, so that no more than one is in memory.

huggingface_hub's ``save_torch_state_dict`` and ``split_torch_state_dict_into_shards`` write the same format, but they
need all tensors at once: 26 GB for a model of 13B, where this takes the 10 GB of its largest shard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from lisa_ros.atomic import replacing

INDEX = "model.safetensors.index.json"


class ShardWriter:
    """A model folder in the making. Until :meth:`close` it has no config.json, and nothing takes it for a model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shard_of: dict[str, str] = {}
        self._count = 0
        self._bytes = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """One shard; nothing where there are no tensors."""
        if not tensors:
            return
        self._count += 1
        name = f"model-{self._count:05d}.safetensors"
        whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
        with replacing(self._folder / name) as unfinished:
            save_file(whole, unfinished, metadata={"format": "pt"})
        self._shard_of |= dict.fromkeys(tensors, name)
        self._bytes += sum(tensor.nbytes for tensor in tensors.values())

    def close(self, config: Mapping[str, Any]) -> None:
        """Write the index and config.json."""
        index = {"metadata": {"total_size": self._bytes}, "weight_map": self._shard_of}
        for name, content in ((INDEX, index), ("config.json", config)):
            with replacing(self._folder / name) as unfinished:
                unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
