"""What the segmenter promises beyond the reference: reuse, drafts, history, cancelling, errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from whole_answer import segment

from lisa_ros.engine.api import Conversation, Event, Regions, Stage, Token, Turn
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, ConfigError, DeviceError, ImageError, OutOfMemory
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_small import model_folder

GOLDEN = Path(__file__).parents[1] / "golden"
DRINK = "Where is the drink? Please output segmentation mask."
SMILE = "Who is smiling? Please output segmentation mask and explain the reason."
NO_MASK = "Is this a dog?"


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_checkpoint(GOLDEN / "ckpt", device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def wide() -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / "wide.png").convert("RGB"))


@pytest.fixture(scope="module")
def tall() -> np.ndarray:
    return np.asarray(Image.open(GOLDEN / "tall.png").convert("RGB"))


def count_positions(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of all passes of the language model from now on."""
    lengths: list[int] = []
    read = segmenter.lisa.read

    def counted(embedded: torch.Tensor, cache: object = None) -> torch.Tensor:
        lengths.append(embedded.shape[1])
        return read(embedded, cache)

    monkeypatch.setattr(segmenter.lisa, "read", counted)
    return lengths


def test_the_usual_answer_needs_no_decode_step(segmenter, wide, monkeypatch) -> None:
    segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True)
    passes = count_positions(segmenter, monkeypatch)
    result = segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True)
    assert result.answer == "Sure, [SEG]."
    assert len(passes) == 1
    passes.clear()
    segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True, draft=False)
    assert len(passes) == len(result.answer_ids)


def test_the_second_command_on_a_frame_reads_only_its_own_words(segmenter, wide, monkeypatch) -> None:
    frame = segmenter.encode(wide)
    first = segment(segmenter, frame, DRINK, verbatim=True)
    embedding = frame.features.embedding
    passes = count_positions(segmenter, monkeypatch)
    monkeypatch.setattr(segmenter, "embed", lambda rgb: pytest.fail("the frame was encoded twice"))
    other = segment(segmenter, frame, NO_MASK, verbatim=True)
    assert passes[0] < 40 < segmenter.lisa.vision_tower.num_tokens
    again = segment(segmenter, frame, DRINK, verbatim=True)
    assert frame.features.embedding is embedding
    assert other.answer_ids != first.answer_ids
    assert again.answer_ids == first.answer_ids
    np.testing.assert_allclose(again.low_res_logits, first.low_res_logits, atol=1e-4)


def test_no_mask_needs_no_image_encoder(segmenter, tall) -> None:
    frame = segmenter.encode(tall)
    result = segment(segmenter, frame, NO_MASK, verbatim=True)
    assert frame.features.embedding is None
    assert result.masks.shape == (0, *tall.shape[:2])
    assert result.low_res_logits.shape == (0, 1, 256, 256)
    assert not result.found


def test_the_mask_comes_before_the_explanation(segmenter, tall) -> None:
    events: list[Event] = []
    result = segment(segmenter, segmenter.encode(tall), SMILE, verbatim=True, on_event=events.append)
    masks = next(i for i, event in enumerate(events) if isinstance(event, Regions))
    texts = [event.text for event in events if isinstance(event, Token)]
    assert not any(event.text == result.answer for event in events[:masks] if isinstance(event, Token))
    assert texts[-1] == result.answer
    assert [event.name for event in events if isinstance(event, Stage)] == ["reading", "generating", "decoding"]
    assert 0 < result.timings.first_mask_s < result.timings.total_s


def test_a_score_lies_between_zero_and_one_and_crops_match_the_masks(segmenter, wide) -> None:
    events: list[Event] = []
    result = segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True, on_event=events.append)
    (regions,) = [event.regions for event in events if isinstance(event, Regions)]
    assert regions[0].mask.area == result.masks[0].sum()
    assert regions[0].score == pytest.approx(result.scores[0])
    assert 0 < result.scores[0] <= result.seg_probabilities[0] <= 1


def test_history_is_read_and_the_new_turn_appended(segmenter, wide, monkeypatch) -> None:
    frame, talk = segmenter.encode(wide), Conversation()
    segment(segmenter, frame, DRINK, verbatim=True, history=talk)
    assert talk.turns == [Turn(DRINK, "Sure, [SEG].")]
    passes = count_positions(segmenter, monkeypatch)
    segment(segmenter, frame, "And what goes with it?", history=talk)
    assert passes[0] < 60, "the first turn was read again"
    assert len(talk.turns) == 2
    held = frame.cache.tokens
    assert held.count(IMAGE_ID) == segmenter.lisa.vision_tower.num_tokens
    assert held.count(segmenter.tokenizer.id_of("[SEG]")) >= 1


def test_history_moves_to_a_newer_frame(segmenter, wide, tall) -> None:
    talk = Conversation()
    segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True, history=talk)
    result = segment(segmenter, segmenter.encode(tall), "and now?", history=talk, max_new_tokens=8)
    assert len(talk.turns) == 2
    assert len(result.answer_ids) <= 8


def test_a_history_too_long_for_the_model_loses_its_oldest_turns(segmenter, wide) -> None:
    talk = Conversation(max_turns=50, turns=[Turn(f"question {i} " + "word " * 120, "Yes.") for i in range(50)])
    segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True, history=talk)
    assert talk.turns[-1].question == DRINK
    assert 1 < len(talk.turns) < 50


def test_a_command_longer_than_the_model_reads_is_refused(segmenter, wide) -> None:
    with pytest.raises(CommandError, match="reads at most"):
        segment(segmenter, segmenter.encode(wide), "word " * 20_000, verbatim=True)


@pytest.mark.parametrize("polls", range(4))
def test_cancelling_stops_between_tokens_and_leaves_the_frame_usable(segmenter, tall, polls: int) -> None:
    frame, left = segmenter.encode(tall), iter([False] * polls + [True] * 100)
    with pytest.raises(Cancelled):
        segment(segmenter, frame, SMILE, verbatim=True, draft=False, should_stop=lambda: next(left))
    expected = segment(segmenter, segmenter.encode(tall), SMILE, verbatim=True)
    assert segment(segmenter, frame, SMILE, verbatim=True).answer_ids == expected.answer_ids


def test_an_error_in_the_middle_of_a_pass_leaves_the_frame_usable(segmenter, wide, monkeypatch) -> None:
    frame = segmenter.encode(wide)
    expected = segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True).answer_ids
    with monkeypatch.context() as patched:
        last = segmenter.lisa.llama.layers[-1]
        patched.setattr(last, "forward", lambda *args, **kwargs: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(OutOfMemory, match="answering a command"):
            segment(segmenter, frame, DRINK, verbatim=True)
    assert segment(segmenter, frame, DRINK, verbatim=True).answer_ids == expected


@pytest.mark.parametrize("command", ["", "   "])
def test_an_empty_command_is_refused_even_verbatim(segmenter, wide, command: str) -> None:
    with pytest.raises(CommandError):
        segment(segmenter, segmenter.encode(wide), command, verbatim=True)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 700, 3), (700, 2, 3), (37, 53, 3)])
def test_odd_image_sizes_give_masks_of_their_size(segmenter, shape) -> None:
    rgb = np.full(shape, 127, np.uint8)
    result = segment(segmenter, segmenter.encode(rgb), DRINK, verbatim=True, max_new_tokens=16)
    assert result.masks.shape[1:] == shape[:2]


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3)),
        None,
    ],
)
def test_what_is_not_an_image_is_named(segmenter, rgb) -> None:
    with pytest.raises(ImageError, match="the image is"):
        segmenter.encode(rgb)


def test_wrong_options_are_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bf16"):
        Segmenter.from_checkpoint(GOLDEN / "ckpt", precision="fp8")
    with pytest.raises(ConfigError, match="llava_v1"):
        Segmenter.from_checkpoint(GOLDEN / "ckpt", conversation="chatty", device="cpu")
    with pytest.raises(DeviceError, match="cuda"):
        Segmenter.from_checkpoint(GOLDEN / "ckpt", device="tpu")
    with pytest.raises(CheckpointError, match="not a folder"):
        Segmenter.from_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="lisa fetch"):
        Segmenter.from_checkpoint(GOLDEN / "ckpt", vision_tower="nobody/clip-none")
    with pytest.raises(ConfigError, match="leave 'clip' out"):
        Segmenter.from_checkpoint(model_folder(), vision_tower="clip")


def test_a_long_run_of_seg_tokens_is_bounded(segmenter, wide, monkeypatch) -> None:
    """A model that says nothing but [SEG] makes a bounded number of masks."""
    seg, weight = segmenter.tokenizer.id_of("[SEG]"), segmenter.lisa.lm_head.weight

    class OnlySeg(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(torch.full(hidden.shape[:-1], seg), weight.shape[0]).float()

    monkeypatch.setattr(segmenter.lisa, "lm_head", OnlySeg())
    monkeypatch.setattr("lisa_ros.engine.api.MASKS_PER_ANSWER", 3)
    result = segment(segmenter, segmenter.encode(wide), DRINK, verbatim=True, max_new_tokens=10)
    assert len(result.masks) == 3
    assert len(result.answer_ids) == 10


def test_a_tower_of_another_width_is_named(tmp_path: Path) -> None:
    tower = tmp_path / "clip-tiny"
    tower.mkdir()
    for file in (GOLDEN / "clip-tiny").iterdir():
        (tower / file.name).write_bytes(file.read_bytes())
    config = tower / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 128'))
    with pytest.raises(CheckpointError, match=r"128 wide.*one of 64"):
        Segmenter.from_checkpoint(GOLDEN / "ckpt", vision_tower=tower, device="cpu")


def test_the_working_directory_does_not_choose_the_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip-tiny").mkdir()
    (tmp_path / "clip-tiny" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert Segmenter.from_checkpoint(GOLDEN / "ckpt", device="cpu").lisa.vision_tower.num_tokens == 256


def test_tensors_that_share_memory_in_an_old_file_are_read_right(tmp_path: Path) -> None:
    from lisa_ros.lisa.weights.tensors import iterate_tensors

    whole = torch.arange(8192.0)
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": whole, "b": whole[4096:]}, file, _use_new_zipfile_serialization=False)
    read = {name: tensor.clone() for name, tensor in iterate_tensors([file])}
    assert torch.equal(read["a"], whole)
    assert torch.equal(read["b"], whole[4096:])


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"lisa": "small"}),
        ("config.json", {"lisa": {"questions": {"sentence": "{x}"}}}),
        ("config.json", {"lisa": {"image_encoder": {"kind": "conv", "depth": 3}}}),
        ("config.json", {"lisa": {"vision_tower": {"kind": "shared"}}}),
        ("config.json", {"hidden_act": "softest"}),
        ("config.json", {"num_attention_heads": 0}),
        ("added_tokens.json", {"": 900}),
    ],
)
def test_a_garbled_checkpoint_is_a_checkpoint_error(tmp_path: Path, file: str, change: dict[str, object]) -> None:
    copy = tmp_path / "ckpt"
    copy.mkdir()
    for source in (GOLDEN / "ckpt").iterdir():
        (copy / source.name).write_bytes(source.read_bytes())
    (tmp_path / "clip-tiny").symlink_to(GOLDEN / "clip-tiny")
    content = json.loads((copy / file).read_text()) | change
    (copy / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        Segmenter.from_checkpoint(copy, device="cpu")
