"""What SECURITY.md promises and no other test holds: hostile models, images, commands; what the code never does."""

from __future__ import annotations

import ast
import json
import re
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from machine_speed import limit

from benchmarks.random_checkpoint import SIZES, write_checkpoint
from lisa_ros.errors import CheckpointError, CommandError, ImageError
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.prompt import QuestionForms, phrase_command
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.spec import read_clip
from lisa_ros.lisa.weights.tensors import find_files, iterate_tensors, read_shapes
from lisa_ros.perception.geometry import depth_image
from lisa_ros.perception.image_codec import check_image, decode, decode_compressed
from lisa_ros.runtime.admission import clean_command

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = sorted((REPOSITORY / "lisa_ros").rglob("*.py"))
MOST = 50_000_000
SMALL = 1 << 20  # bytes: what a refusal may take


# --- model files


def safetensors_file(folder: Path, header: object, length: int | None = None) -> Path:
    """A file with 16 bytes of data and a header that says whatever it likes."""
    text = json.dumps(header).encode()
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(16))
    return file


def tensor(shape: list[int], end: int, begin: int = 0) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


LIES = {
    "a header of 2**62 bytes": ({}, 2**62),
    "a header longer than the file": ({}, 2**20),
    "4 TB of data": ({"a": tensor([2**40], 2**42)}, None),
    "a shape larger than its data": ({"a": tensor([2**30], 16)}, None),
    "a shape that overflows 64 bits": ({"a": tensor([2**62, 2**62], 16)}, None),
    "a negative side": ({"a": tensor([-4], 16)}, None),
    "two tensors in one place": ({"a": tensor([4], 16), "b": tensor([4], 16)}, None),
}


@pytest.mark.parametrize(("header", "length"), LIES.values(), ids=LIES)
def test_a_safetensors_header_that_lies_is_refused_before_memory_is_asked_for(tmp_path, header, length):
    file = safetensors_file(tmp_path, header, length)
    before = peak_kb()
    for read in (read_shapes, lambda files: list(iterate_tensors(files))):
        with pytest.raises(CheckpointError, match=r"is damaged or truncated"):
            read([file])
    assert peak_kb() - before < 50_000


def peak_kb() -> int:
    """Highest resident memory of this process so far."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


def test_a_bin_file_that_claims_terabytes_is_refused(tmp_path):
    """The pickle inside says 2**40 numbers, the record behind it has 4."""
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(4)}, file)
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in records if name.endswith("data.pkl")]
    start = records[name].index(b"cpu")
    many = b"\x8a\x08" + struct.pack("<q", 2**40)
    records[name] = records[name][:start] + records[name][start:].replace(b"K\x04", many, 2)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    before = peak_kb()
    with pytest.raises(CheckpointError, match=r"is damaged or truncated"):
        read_shapes([file])
    assert peak_kb() - before < 50_000


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "a/../../b.safetensors", 7])
def test_an_index_cannot_name_a_file_elsewhere(tmp_path, name):
    (tmp_path / "elsewhere.safetensors").write_bytes(b"")
    folder = tmp_path / "ckpt"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match=r"without a folder|not in"):
        find_files(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ckpt") / "ckpt"
    write_checkpoint(folder, SIZES["tiny"], dtype=torch.bfloat16)
    return folder


@pytest.mark.parametrize(
    "claim",
    [
        {"hidden_size": 2**20},
        {"intermediate_size": 2**40},
        {"out_dim": 2**40},
        {"head_dim": 2**40},
        {"num_hidden_layers": 10**9},
        {"mm_vision_select_layer": -1000},
        {"lisa": {"image_size": 2**30}},
        {"lisa": {"image_encoder": {"stages": [[1, 8, 10**9, 2]]}}},
        {"lisa": {"image_encoder": {"neck_blocks": 10**9}}},
        {"lisa": {"image_encoder": {"stages": "many"}}},
    ],
    ids=str,
)
def test_a_config_that_claims_a_giant_is_refused_before_memory_is_asked_for(checkpoint, claim):
    config = checkpoint / "config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | claim))
    before, begun = peak_kb(), time.monotonic()
    try:
        cpu = torch.device("cpu")
        with pytest.raises(CheckpointError):
            load_lisa(checkpoint, read_clip(checkpoint / "clip-random"), Precision.pick("fp32", cpu), cpu)
    finally:
        config.write_text(text)
    assert peak_kb() - before < 300_000
    assert time.monotonic() - begun < limit(30)


# --- images


def image(**fields: object) -> SimpleNamespace:
    usual = {"height": 8, "width": 8, "encoding": "rgb8", "step": 24, "is_bigendian": 0, "data": bytes(192)}
    return SimpleNamespace(**usual | fields)


HUGE = {
    "4 GB": image(height=40_000, width=40_000, step=120_000),
    "largest numbers": image(height=2**32 - 1, width=2**32 - 1, step=2**32 - 1),
    "a step of 4 GB": image(step=2**32 - 1),
    "a step that wraps round to 24": image(height=2**28, width=8, step=24),
}


@pytest.mark.parametrize("claimed", HUGE.values(), ids=HUGE)
def test_an_image_that_claims_more_than_it_has_is_refused_without_its_memory(claimed):
    for refuse in (lambda: check_image(claimed, MOST), lambda: decode(claimed, MOST), lambda: as_depth(claimed)):
        tracemalloc.start()
        with pytest.raises(ImageError):
            refuse()
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < SMALL


def as_depth(claimed: SimpleNamespace) -> np.ndarray:
    return depth_image(claimed.data, "16UC1", claimed.height, claimed.width, claimed.step, False)


def test_a_compressed_image_that_claims_4_gb_is_refused_from_its_header():
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)
    with pytest.raises(ImageError):
        decode_compressed(SimpleNamespace(format="png", data=data), MOST)


# --- commands

NO_TEXT = {"NUL": "the \0 cup", "escape": "\x1b]0;cup\x07", "lone surrogate": "cup \udcff", "1 MB": "cup " * 262_144}


@pytest.mark.parametrize("command", NO_TEXT.values(), ids=NO_TEXT)
def test_what_is_no_command_is_refused_at_once(command):
    begun = time.monotonic()
    with pytest.raises(CommandError):
        clean_command(command, 10_000)
    assert time.monotonic() - begun < limit(0.5)


def test_the_library_refuses_what_is_no_text_too():
    """The command line hands over bytes that are no UTF-8 as lone surrogates."""
    with pytest.raises(CommandError, match=r"at position 4 \(U\+DCFF\)"):
        phrase_command("cup \udcff", QuestionForms())


# --- what the code never does


def calls(file: Path) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(n.func), n) for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Call)]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(REPOSITORY / "lisa_ros")))
def test_no_module_runs_text_opens_a_shell_or_trusts_a_pickle(file):
    for name, call in calls(file):
        where = f"{name} in line {call.lineno}"
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), where
        assert name not in ("pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "marshal.loads"), where
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert not {"shell", "trust_remote_code"} & set(options), where
        if name == "torch.load":
            assert options.get("weights_only") == "True", where
        if name == "np.load":
            assert options.get("allow_pickle", "False") == "False", where


def test_every_test_that_is_promised_exists():
    promised = re.findall(r"`(test/[\w/]+\.py)(?:::(\w+))?`", (REPOSITORY / "SECURITY.md").read_text("utf-8"))
    assert len(promised) > 10
    for file, test in promised:
        assert (REPOSITORY / file).is_file(), file
        assert not test or f"def {test}(" in (REPOSITORY / file).read_text("utf-8"), f"{file}::{test}"
