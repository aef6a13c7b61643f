"""Tiny models and servers that the tests of the engine share; each is made once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, os.path.dirname(__file__))

import servers
import tiny_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny models, each under the name of its maker in ``tiny_models``; see :func:`tiny`."""
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="session")
def tiny(models: Path):
    """Makes a tiny model once: ``tiny("sam2")``."""

    def made(name: str) -> Path:
        folder = models / name
        return folder if folder.exists() else getattr(tiny_models, name)(folder)

    return made


@pytest.fixture(scope="session")
def endpoint_engine(models: Path, tiny) -> Path:
    """A model folder with a SAM 2.1 and no locator of its own."""
    folder = tiny_models.recipe(models / "endpoint_engine", {"kind": "endpoint"}, {"model": "cutter"})
    if not (folder / "cutter").exists():
        (folder / "cutter").symlink_to(tiny("sam2"))
    return folder


@pytest.fixture(scope="session")
def llama(tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Process]:
    """llama.cpp's server with the fitted tiny Qwen3-VL."""
    pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install -r requirements/test.txt")
    pytest.importorskip("gguf", reason="needs gguf: pip install -r requirements/test.txt")
    with servers.llama_server(tiny("fitted_qwen3_vl"), tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.fixture(scope="session")
def rgb() -> NDArray[np.uint8]:
    """uint8 (480, 640, 3): a red square on noise; read-only."""
    pixels = np.random.default_rng(0).integers(0, 90, (480, 640, 3), dtype=np.uint8)
    pixels[48:240, 64:320] = (220, 30, 30)
    pixels.flags.writeable = False
    return pixels
