"""PyTorch's pickled weights rewritten as safetensors, byte for byte, within the memory of one tensor.

The writer is ours because the library's needs all tensors of a file in memory at once, and one file of the released
checkpoints has 10 GB. The format: the header's length (8 bytes, little endian), a JSON header, the tensors' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.weights.tensors import iterate_tensors

Advance = Callable[[int], object]
"""Called with the number of bytes done since the last call."""

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_CHUNK = 1 << 24


@dataclass(frozen=True)
class _Entry:
    """One tensor in the file. begin, end: bytes after the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def convert(source: Path, target: Path, advance: Advance = lambda done: None) -> None:
    """Write the tensors of a file as safetensors, then read both files and compare every byte.

    Args:
        source: File of PyTorch.
        target: File to write. It appears only after the comparison.
        advance: Called with numbers of bytes; their sum is twice the size of the tensors (writing and comparing).

    Raises:
        CheckpointError: The source is damaged, has an unsupported type, or the files differ.
        OSError: A file cannot be read or written.
    """
    entries = _layout(source)
    with replacing(target) as unfinished:
        with open(unfinished, "wb") as file:
            _write(source, entries, file, advance)
        _compare(source, entries, unfinished, advance)


def _layout(source: Path) -> dict[str, _Entry]:
    """Where each tensor goes: wide types first, so that all stay aligned to their size."""
    shapes_of: dict[str, tuple[torch.dtype, tuple[int, ...], int]] = {}
    for name, tensor in iterate_tensors([source]):
        if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
            raise CheckpointError(f"{source}: {name} is {tensor.dtype}, {tensor.layout}; safetensors cannot hold that")
        shapes_of[name] = tensor.dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size()
    entries, begin = {}, 0
    for name in sorted(shapes_of, key=lambda name: (-shapes_of[name][0].itemsize, name)):
        dtype, shape, size = shapes_of[name]
        entries[name] = _Entry(dtype, shape, begin, begin + size)
        begin += size
    return entries


def _write(source: Path, entries: dict[str, _Entry], file: BinaryIO, advance: Advance) -> None:
    header = _header(entries)
    file.write(header)
    file.truncate(len(header) + max((entry.end for entry in entries.values()), default=0))
    for name, tensor in iterate_tensors([source]):
        file.seek(len(header) + entries[name].begin)
        for chunk in _bytes(tensor).split(_CHUNK):
            file.write(chunk.numpy().data)
            advance(len(chunk))


def _header(entries: dict[str, _Entry]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, entry in entries.items():
        offsets = [entry.begin, entry.end]
        table[name] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _compare(source: Path, entries: dict[str, _Entry], written: Path, advance: Advance) -> None:
    """Raise CheckpointError unless ``written`` holds exactly ``source``'s tensors, as the library reads them."""
    try:
        with safe_open(written, framework="pt") as reader:
            shapes = {name: tuple(reader.get_slice(name).get_shape()) for name in reader.keys()}  # noqa: SIM118
            types = {name: reader.get_slice(name).get_dtype() for name in shapes}
    except SafetensorError as error:
        raise CheckpointError(f"{written.name} cannot be read back: {error}; is the disk faulty?") from error
    with open(written, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(start - 8))
        for name, tensor in iterate_tensors([source]):
            same = shapes.get(name) == tuple(tensor.shape) and types.get(name) == _DTYPES[tensor.dtype]
            if not same or not _equal(file, start + table[name]["data_offsets"][0], tensor, advance):
                raise CheckpointError(f"{written.name}: {name} is not as in {source}; is the disk or memory faulty?")
    if set(shapes) != set(entries):
        raise CheckpointError(f"{written.name} holds other tensors than {source}")


def _equal(file: BinaryIO, begin: int, tensor: Tensor, advance: Advance) -> bool:
    file.seek(begin)
    for chunk in _bytes(tensor).split(_CHUNK):
        if file.read(len(chunk)) != chunk.numpy().tobytes():
            return False
        advance(len(chunk))
    return True


def _bytes(tensor: Tensor) -> Tensor:
    """The tensor's numbers as uint8 (n,), in reading order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
