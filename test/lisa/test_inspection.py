"""``lisa inspect``: LISA, CLIP, SAM, and what is none of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lisa_ros.cli import main
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.family import FAMILIES
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.weights.inspect import inspect

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the golden checkpoint that a test may break, its tower beside it."""
    shutil.copytree(GOLDEN / "clip-tiny", tmp_path / "clip-tiny")
    return Path(shutil.copytree(GOLDEN / "ckpt", tmp_path / "lisa-tiny"))


def _rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_checkpoint_is_described(checkpoint: Path) -> None:
    report = inspect(checkpoint)
    assert report.kind == "LISA"
    assert report.problems == []
    assert report.notes == []
    assert report.facts["tokens"] == "[SEG] 800, <im_start> 801, <im_end> 802"
    assert report.facts["language"].startswith("LLaMA, 4 layers, 96 wide, 8 heads (4 for keys), vocabulary 803")
    assert "256 image tokens" in report.facts["vision"]
    assert report.facts["masks"] == "SAM ViT (4 layers, 64 wide), 1024 pixels, mask grid 256 x 256"
    assert report.size == (checkpoint / "model.safetensors").stat().st_size
    assert report.dtypes.keys() == {str(t.dtype)[6:] for t in load_file(checkpoint / "model.safetensors").values()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_memory_of_the_weights_is_that_of_a_loaded_model(checkpoint: Path, precision: str) -> None:
    lisa = Segmenter.from_checkpoint(checkpoint, device="cpu", precision=precision).lisa
    saved = lisa.state_dict(keep_vars=True)
    buffers = [buffer for name, buffer in lisa.named_buffers() if name in saved]
    loaded = sum(tensor.nbytes for tensor in [*lisa.parameters(), *buffers])
    # SAM's positional matrix stays fp32 at every precision.
    assert abs(inspect(checkpoint).memory[precision].weights - loaded) <= 1024


def test_the_memory_of_the_cache_is_that_of_its_tokens(checkpoint: Path) -> None:
    # keys and values, 4 layers, 4 heads of 12 numbers, 2048 tokens, 4 bytes
    assert inspect(checkpoint).memory["fp32"].cache == 2 * 4 * 4 * 12 * 2048 * 4


def test_int8_and_nf4_shrink_the_decoder_layers_alone(checkpoint: Path) -> None:
    pytest.importorskip("bitsandbytes")
    memory = inspect(checkpoint).memory
    layers = sum(
        tensor.numel()
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
        if name.startswith("model.layers.") and name.endswith("proj.weight")
    )
    assert memory["bf16"].weights - memory["int8"].weights == pytest.approx(layers, rel=0.1)
    assert memory["bf16"].weights - memory["nf4"].weights == pytest.approx(1.5 * layers, rel=0.05)


def test_missing_extra_and_misshapen_tensors_are_named(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.mm_projector.bias"]
        tensors["model.stranger.weight"] = torch.zeros(2)
        tensors["model.norm.weight"] = torch.zeros(5)

    _rewrite(checkpoint, change)
    assert main(["inspect", str(checkpoint), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["missing"] == ["model.mm_projector.bias"]
    assert told["unexpected"] == ["model.stranger.weight"]
    assert told["misshapen"] == ["model.norm.weight (5,) instead of (96,)"]


def test_an_absent_tower_is_a_note_and_not_a_traceback(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint.parent / "clip-tiny")
    report = inspect(checkpoint)
    assert report.problems == []
    assert "lisa fetch clip-tiny" in report.notes[0]
    assert "vision tower" not in report.parameters


def test_another_tower_of_the_same_name_is_a_problem(checkpoint: Path) -> None:
    file = checkpoint.parent / "clip-tiny" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 32}))
    assert "is 32 wide, the checkpoint was trained with one of 64" in " ".join(inspect(checkpoint).problems)


def test_a_tokenizer_that_does_not_fit_is_a_problem(checkpoint: Path) -> None:
    (checkpoint / "added_tokens.json").write_text('{"<im_start>": 801, "<im_end>": 900}')
    problems = " ".join(inspect(checkpoint).problems)
    assert "the tokenizer has 901 tokens, the embedding only 803 rows" in problems
    assert "no [SEG]" in problems


def test_a_clip_folder_is_described() -> None:
    report = inspect(GOLDEN / "clip-tiny")
    assert (report.kind, report.problems) == ("CLIP", [])
    assert "256 image tokens" in report.facts["vision"]


def test_sam_files_are_described(tmp_path: Path) -> None:
    prefix = "model.visual_model."
    tensors = load_file(GOLDEN / "ckpt" / "model.safetensors")
    sam = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    torch.save(sam, tmp_path / "sam.pth")
    report = inspect(tmp_path / "sam.pth")
    assert (report.kind, report.problems) == ("SAM", [])
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is not SAM"):
        inspect(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "is not readable JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is not a JSON object"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "not a LISA checkpoint"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\x00"), "is damaged or truncated"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (shutil.rmtree, "there is no"),
    ],
)
def test_a_broken_folder_is_a_problem_in_one_line(
    checkpoint: Path, damage, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(checkpoint)
    assert main(["inspect", str(checkpoint)]) == 1
    output = capsys.readouterr()
    (line,) = [line for line in (output.out + output.err).splitlines() if message in line]
    assert line.startswith(("lisa: ", "problem: "))
    assert "Traceback" not in output.err


@pytest.mark.parametrize("family", ["gsva", "cores", "lasagna", "sesame", "read"])
def test_the_family_is_printed_even_where_the_folder_cannot_be_loaded(
    family: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"architectures": [FAMILIES[family].architecture]}))
    for damage in (lambda: None, (checkpoint / "model.safetensors").unlink):
        damage()
        main(["inspect", str(checkpoint)])
        assert re.search(rf"family +{family}\n", capsys.readouterr().out)


def test_a_tokenizer_of_another_family_is_a_problem_that_names_the_token(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"lisa": {"family": "gsva"}}))
    assert "the tokenizer has no [REJ], a token of gsva" in " ".join(inspect(checkpoint).problems)
