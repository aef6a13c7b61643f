"""Tensors on disk, read one at a time: safetensors and PyTorch's zip files, single or in shards.

A pickle is never executed: PyTorch's files are opened with ``weights_only=True``, which admits tensors, nothing else.
What was read is handed back to the operating system at once, so that loading peaks at what it loads.
"""

from __future__ import annotations

import ctypes
import mmap
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json
from lisa_ros.lisa.weights.substitute import check_link, substitute

Shape = tuple[int, ...]

_SINGLE = ("model.safetensors", "pytorch_model.bin")


def find_files(folder: Path) -> list[Path]:
    """The weight files of a model folder, safetensors preferred.

    Raises:
        CheckpointError: There are none, or shards that the index names are missing.
    """
    for name in _SINGLE:
        index = folder / f"{name}.index.json"
        check_link(index)
        check_link(folder / name)
        if index.is_file():
            return _files_of_index(index)
        if (folder / name).is_file():
            return [folder / name]
    raise CheckpointError(
        f"{folder} holds no weights; looked for {' and '.join(_SINGLE)}, each alone or with its .index.json"
    )


def read_shapes(files: list[Path]) -> dict[str, Shape]:
    """Name and shape of every tensor, without reading the data.

    Raises:
        CheckpointError: A file is damaged or contains more than tensors.
    """
    shapes: dict[str, Shape] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with _open_safetensors(file) as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in list(tensors.keys())}
        else:
            shapes |= {name: tuple(tensor.shape) for name, tensor in _open_pickle(file)[0].items()}
    return shapes


def iterate_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor, one at a time, on the CPU, in the stored type.

    A tensor is valid only until the next one is read: copy it to store it.

    Raises:
        CheckpointError: A file is damaged or contains more than tensors.
    """
    for file in files:
        if file.suffix == ".safetensors":
            with _open_safetensors(file) as reader:
                for name in list(reader.keys()):
                    tensor = reader.get_tensor(name)
                    yield name, tensor
                    _release(tensor)
        else:
            tensors, mapped = _open_pickle(file)
            for name in list(tensors):
                tensor = tensors.pop(name)
                yield name, tensor
                if mapped:
                    _release(tensor)


def shard_names(index: Path) -> list[str]:
    """The files that an index of shards names, in order.

    Raises:
        CheckpointError: It cannot be read, or is no such index.
    """
    try:
        names = list(read_json(index, CheckpointError)["weight_map"].values())
    except (CheckpointError, KeyError, AttributeError, TypeError) as error:
        text = substitute(index) or f"{index} is not an index of shards, an object with 'weight_map': {error}"
        raise CheckpointError(text) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{index} is not an index of shards: it names {name!r}; shards lie beside the index, without a folder"
            )
    return sorted(set(names))


def _files_of_index(index: Path) -> list[Path]:
    files = [index.parent / name for name in shard_names(index)]
    for file in files:
        check_link(file)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(f"{index.name} names shards that are not in {index.parent}: {', '.join(missing)}")
    return files


def _open_safetensors(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(substitute(file) or f"{file} is damaged or truncated: {error}") from error


def _open_pickle(file: Path) -> tuple[dict[str, Tensor], bool]:
    """The tensors, and whether they map the file; one from before PyTorch 1.6 cannot be mapped and is read whole."""
    mapped = True
    try:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            mapped = False
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported (?:global|operand|class)[^\n]*|GLOBAL [\w.]+", str(error))
        reason = refused.group() if refused else str(error).splitlines()[0]
        text = substitute(file) or f"{file} holds more than tensors and was not opened: {reason}"
        raise CheckpointError(text) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        text = substitute(file) or f"{file} is damaged or truncated: {str(error).splitlines()[0]}"
        raise CheckpointError(text) from error
    # zero_to_fp32.py and some trainers put the tensors one level down.
    for key in ("state_dict", "module", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise CheckpointError(f"{file} is not a table of named tensors")
    return {str(name): tensor for name, tensor in loaded.items()}, mapped


def give_back_freed() -> None:
    """Hand what was freed inside the C library's heap back to the operating system; it keeps such holes otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _release(tensor: Tensor) -> None:
    """Give the pages under a tensor back to the kernel: they map a file, which could be read again."""
    storage = tensor.untyped_storage()
    begin = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (storage.data_ptr() + storage.nbytes()) // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform == "linux" and end > begin:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
