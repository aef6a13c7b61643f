"""``lisa fetch``: from a folder and from a hub on loopback, through the hub's own client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from machine_speed import limit
from safetensors.torch import load_file
from whole_answer import segment

from lisa_ros.cli import main
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.weights import fetch as fetch_module
from lisa_ros.lisa.weights.convert import convert
from lisa_ros.lisa.weights.fetch import fetch
from lisa_ros.lisa.weights.origin import HubRepository, sha256
from lisa_ros.lisa.weights.spec import read_spec, resolve_tower
from lisa_ros.lisa.weights.tensors import find_files
from lisa_small import model_folder

GOLDEN = Path(__file__).parents[1] / "golden"
FIRST, SECOND = "a" * 40, "b" * 40
SHARDS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def _pickled(folder: Path, shards: int = 2, tower: str = "clip-tiny") -> Path:
    """The golden checkpoint as the reference releases it: pickled bf16 shards with an index."""
    shutil.copytree(GOLDEN / "ckpt", folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(GOLDEN / "ckpt" / "model.safetensors").items()}
    names = sorted(tensors)
    if shards == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        places = {name: SHARDS[index % 2] for index, name in enumerate(names)}
        for shard in SHARDS:
            torch.save({name: tensors[name] for name in names if places[name] == shard}, folder / shard)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"mm_vision_tower": tower, "vision_tower": tower}))
    return folder


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor for file in sorted(folder.glob("model*.safetensors")) for name, tensor in load_file(file).items()
    }


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A pickled checkpoint with its tower beside it."""
    shutil.copytree(GOLDEN / "clip-tiny", tmp_path / "models" / "clip-tiny")
    return _pickled(tmp_path / "models" / "lisa-tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    served = _pickled(tmp_path / "served", tower="some/clip-small")
    (served / "optimizer").mkdir()
    (served / "optimizer" / "config.json").write_text("{}")
    (served / "training_args.bin").write_bytes(b"not wanted")
    repositories = {"lab/LISA-tiny": (served, FIRST), "some/clip-small": (GOLDEN / "clip-tiny", SECOND)}
    with LoopbackHub(repositories) as hub:
        # The client reads the environment when it is imported, which was long ago.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def test_the_model_in_the_box_comes_whole(working_directory: Path) -> None:
    """Training goes on from a finished model by the names of its classes."""
    out, box = fetch(str(model_folder())), model_folder()
    assert (out / "classes.json").read_bytes() == (box / "classes.json").read_bytes()
    assert {name: t.dtype for name, t in _tensors(out).items()} == {name: t.dtype for name, t in _tensors(box).items()}


def test_a_local_folder_becomes_safetensors_with_the_same_bytes(checkpoint: Path, working_directory: Path) -> None:
    before = {file.name: sha256(file) for file in checkpoint.iterdir()}
    out = fetch(str(checkpoint))
    assert out.resolve() == working_directory / "lisa-tiny-safetensors"
    assert {file.name: sha256(file) for file in checkpoint.iterdir()} == before
    assert not [file for file in out.rglob("*") if file.suffix == ".bin" or file.name.startswith(".")]
    source = {}
    for shard in SHARDS:
        source |= torch.load(checkpoint / shard, weights_only=True)
    written = _tensors(out)
    assert set(written) == set(source)
    for name, tensor in source.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor), name
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}


def test_the_result_loads_and_answers_without_the_source(checkpoint: Path) -> None:
    from lisa_ros.lisa.segmenter import Segmenter
    from lisa_ros.perception.photo import read_photo

    out = fetch(str(checkpoint))
    shutil.rmtree(checkpoint.parent)
    assert resolve_tower(None, read_spec(out), out) == out / "clip-tiny"
    segmenter = Segmenter.from_checkpoint(out, device="cpu", precision="fp32")
    encoded = segmenter.encode(read_photo(str(GOLDEN / "wide.png")))
    assert segment(segmenter, encoded, "Where is the drink?").answer_ids


def test_the_record_names_origin_and_checksums(checkpoint: Path) -> None:
    out = fetch(str(checkpoint), Path("converted"))
    record = json.loads((out / "fetch.json").read_text())
    assert record["source"] == str(checkpoint.resolve())
    for name, file in record["files"].items():
        assert (out / name).stat().st_size == file["size"]
        assert sha256(out / name) == file["sha256"]
    shard = record["files"]["model-00001-of-00002.safetensors"]
    assert shard["from"] == {"name": SHARDS[0], "sha256": sha256(checkpoint / SHARDS[0])}


def test_a_hub_repository_is_pinned_converted_and_gets_its_tower(hub: LoopbackHub, working_directory: Path) -> None:
    said: list[str] = []
    out = fetch("lab/LISA-tiny", say=said.append)
    assert out.resolve() == working_directory / "LISA-tiny"
    assert json.loads((out / "fetch.json").read_text())["revision"] == FIRST
    assert json.loads((out / "clip-small" / "fetch.json").read_text())["revision"] == SECOND
    assert resolve_tower(None, read_spec(out), out) == out / "clip-small"
    assert len(_tensors(out)) == len(load_file(GOLDEN / "ckpt" / "model.safetensors"))
    assert not {name for name, _ in hub.downloads} & {"training_args.bin", "optimizer/config.json"}
    assert not [file for file in out.rglob("*") if file.suffix == ".bin" or file.name == ".fetch"]
    assert any("of disk" in line and "are free" in line for line in said)


def test_a_dropped_connection_is_taken_up_again(hub: LoopbackHub) -> None:
    hub.cut[SHARDS[0]] = 100_000
    out = fetch("lab/LISA-tiny")
    assert len(_tensors(out)) == len(load_file(GOLDEN / "ckpt" / "model.safetensors"))
    assert [name for name, _ in hub.downloads].count(SHARDS[0]) == 2


def test_an_interrupted_fetch_goes_on_at_the_same_revision(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, target: Path, advance) -> None:
        if source.name == SHARDS[1]:
            raise KeyboardInterrupt
        convert(source, target, advance)

    monkeypatch.setattr(fetch_module, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("lab/LISA-tiny")
    assert not list(Path("LISA-tiny").glob("*.unfinished*"))
    monkeypatch.setattr(fetch_module, "convert", convert)
    folder, _ = hub.repositories["lab/LISA-tiny"]
    hub.older.add(FIRST)
    hub.repositories["lab/LISA-tiny"] = (folder, "c" * 40)
    hub.downloads.clear()
    out = fetch("lab/LISA-tiny")
    assert json.loads((out / "fetch.json").read_text())["revision"] == FIRST
    assert not {name for name, _ in hub.downloads} & set(SHARDS)
    with pytest.raises(CheckpointError, match=f"{FIRST}, not {'c' * 40}; choose another --out"):
        fetch("lab/LISA-tiny", revision="main")


def test_a_damaged_download_is_rejected_and_downloaded_again(hub: LoopbackHub) -> None:
    hub.damaged.add(SHARDS[1])
    with pytest.raises(CheckpointError, match=r"arrived damaged .*run the command again"):
        fetch("lab/LISA-tiny")
    assert not (Path("LISA-tiny") / "model-00002-of-00002.safetensors").exists()
    hub.damaged.clear()
    assert fetch("lab/LISA-tiny")


def test_a_complete_folder_needs_no_network(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("lab/LISA-tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said: list[str] = []
    fetch("lab/LISA-tiny", say=said.append)
    assert said == [f"LISA-tiny is complete already: lab/LISA-tiny at {FIRST}"]


def test_a_hub_that_went_away_is_an_error_even_where_something_was_downloaded(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client is content with what is there."""
    repository = HubRepository.look_up("lab/LISA-tiny", None)
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "README.md").write_text("of an earlier run")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"lab/LISA-tiny.* could not be had from the hub.*run the same command again"
    ):
        repository.files(["config.json"], tmp_path / "staging")


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("lab/other", None, "the hub has no lab/other"),
        ("lab/LISA-tiny", "v9", "has no such revision"),
        ("no such thing", None, "neither a folder here nor the name of a repository"),
    ],
)
def test_a_source_that_the_hub_does_not_have_is_an_error(
    hub: LoopbackHub, source: str, revision: str | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        fetch(source, revision=revision)
    assert not list(Path().iterdir())


def test_the_command_speaks_to_the_hub_that_the_environment_names(hub: LoopbackHub, repository: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "lisa_ros.cli", "fetch", "lab/LISA-tiny", "--out", "deep/er/tiny"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit(200))
    assert done.returncode == 0, done.stderr
    assert f"lab/LISA-tiny at {FIRST}: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ready: lisa segment")
    assert (Path("deep/er/tiny") / "model.safetensors.index.json").is_file()


def test_a_pickle_that_runs_code_is_refused_and_not_run(checkpoint: Path, tmp_path: Path) -> None:
    torch.save({"weight": Trap(tmp_path / "sprung")}, checkpoint / SHARDS[0])
    with pytest.raises(CheckpointError, match="holds more than tensors and was not opened"):
        fetch(str(checkpoint), Path("out"))
    assert not (tmp_path / "sprung").exists()
    assert not list(Path("out").glob("*.safetensors"))


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": [1]}', '{"weight_map": {"a": 3, "b": {}}}'])
def test_an_index_that_names_no_shards_is_an_error_that_names_it(checkpoint: Path, content: str) -> None:
    index = checkpoint / "pytorch_model.bin.index.json"
    index.write_text(content)
    for read in (find_files, lambda folder: fetch(str(folder), Path("out"))):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin\.index\.json is not"):
            read(checkpoint)


def test_files_of_the_user_are_not_overwritten(checkpoint: Path) -> None:
    mine = Path("mine")
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not from 'lisa fetch'"):
        fetch(str(checkpoint), mine)
    with pytest.raises(CheckpointError, match="is not from 'lisa fetch'"):
        fetch(str(checkpoint), checkpoint)
    assert [file.name for file in mine.iterdir()] == ["notes.txt"]


def test_too_little_disk_space_is_an_error_before_anything_is_written(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(CheckpointError, match=r"needs .* MB more, .* has 0.0 MB free"):
        fetch(str(checkpoint), Path("out"))
    assert not Path("out").exists()


def test_a_checkpoint_that_lacks_a_tensor_is_named(tmp_path: Path) -> None:
    folder = _pickled(tmp_path / "models" / "lisa-tiny", shards=1)
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del tensors["model.mm_projector.bias"]
    torch.save(tensors, folder / "pytorch_model.bin")
    said: list[str] = []
    with pytest.raises(CheckpointError, match=r"cannot be used: 1 tensor missing: model.mm_projector.bias"):
        fetch(str(folder), Path("out"), say=said.append)
    assert any(line.startswith("without its CLIP tower") for line in said)


def test_conversion_keeps_views_ties_and_every_type(tmp_path: Path) -> None:
    matrix = torch.randn(5, 7)
    tensors = {
        "matrix": matrix,
        "tied": matrix,
        "transposed": matrix.t(),
        "slice": matrix[1:3, 2:4],
        "half": torch.randn(3).half(),
        "bf16": torch.tensor([float("nan"), -0.0, 1.5], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
    }
    torch.save(tensors, tmp_path / "weights.bin")
    convert(tmp_path / "weights.bin", tmp_path / "weights.safetensors")
    written = load_file(tmp_path / "weights.safetensors")
    assert set(written) == set(tensors)
    for name, tensor in tensors.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(
            written[name].reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8)
        ), name


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_conversion_takes_the_memory_of_a_tensor_and_not_of_a_file(tmp_path: Path) -> None:
    megabyte = 1 << 20

    def held() -> int:
        status = Path("/proc/self/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024

    torch.save({f"t{i}": torch.full((24 * megabyte // 4,), float(i)) for i in range(10)}, tmp_path / "weights.bin")
    before, seen = held(), []
    convert(tmp_path / "weights.bin", tmp_path / "weights.safetensors", lambda done: seen.append(held()))
    assert len(seen) == 2 * 2 * 10
    assert max(seen) - before < 64 * megabyte


def test_a_difference_between_source_and_copy_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lisa_ros.lisa.weights import convert as conversion

    def faulty(source, entries, file, advance) -> None:
        conversion_write(source, entries, file, advance)
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")

    conversion_write = conversion._write
    monkeypatch.setattr(conversion, "_write", faulty)
    torch.save({"weight": torch.zeros(10)}, tmp_path / "weights.bin")
    with pytest.raises(CheckpointError, match="weight is not as in"):
        convert(tmp_path / "weights.bin", tmp_path / "weights.safetensors")
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["weights.bin"]


def test_known_names_are_listed_with_size_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tsunghanwu/SESAME: sesame, 16.2 GB, licence MIT (the terms of LLaMA apply besides)" in lines
    assert any("gsva-7b-ft-gres.bin: gsva, size not stated, licence not stated; from OneDrive" in one for one in lines)


def test_a_file_that_no_hub_has_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "gsva-7b-ft-gres.bin"]) == 1
    assert "OneDrive or Tsinghua Cloud" in capsys.readouterr().err
    (tmp_path / "gsva-7b-ft-gres.bin").touch()
    assert main(["fetch", "gsva-7b-ft-gres.bin"]) == 1
    assert "--base" in capsys.readouterr().err


@pytest.mark.parametrize("tower", ["../dataset/clip-vit-large-patch14-336", "./checkpoint/CLIP/clip-vit-large-patch14"])
def test_a_tower_at_a_path_of_another_machine_is_fetched_by_its_name(tower: str, tmp_path: Path) -> None:
    folder = _pickled(tmp_path / "read", tower=tower)
    assert fetch_module._tower_name(read_spec(folder)) == "openai/" + tower.rpartition("/")[2]
