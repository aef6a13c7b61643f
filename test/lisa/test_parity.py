"""The same numbers as the reference: prompts, token ids, answers, pixels, logits, masks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from whole_answer import segment

from lisa_ros.engine.api import Turn
from lisa_ros.lisa.model.lisa import image_columns, predicting
from lisa_ros.lisa.preprocess import ClipPreprocessing, for_clip, for_sam, resized_size
from lisa_ros.lisa.prompt import TEMPLATES, build_prompt, template
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter
from lisa_ros.lisa.tokenizer import IMAGE_ID, Tokenizer

COMPACT = Path(__file__).parents[1] / "golden"
FULL = Path(__file__).resolve().parents[3] / "shared" / "goldens"
FOLDERS = [COMPACT, *(FULL / case for case in "AC" if (FULL / case).is_dir())]


@dataclass(frozen=True)
class Case:
    """One question that the reference answered."""

    folder: Path
    facts: dict[str, Any]
    conversation: str
    start_end: bool

    @property
    def rgb(self) -> np.ndarray:
        return np.asarray(Image.open(self.folder / self.facts["image"]).convert("RGB"))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / f"{self.facts['id']}.npz"))

    @property
    def masks(self) -> np.ndarray:
        shape = self.arrays["masks_shape"]
        return np.unpackbits(self.arrays["masks_bits"])[: np.prod(shape)].reshape(shape).astype(bool)


def _cases() -> list[Any]:
    found = []
    for folder in FOLDERS:
        told = json.loads((folder / "cases.json").read_text())
        for facts in told["chat_cases"]:
            case = Case(folder, facts, told["conv_type"], told["use_mm_start_end"])
            found.append(pytest.param(case, id=f"{folder.name}-{facts['id']}"))
    return found


@lru_cache(maxsize=1)
def segmenter(folder: Path) -> Segmenter:
    return Segmenter.from_checkpoint(folder / "ckpt", device="cpu", precision="fp32")


@lru_cache(maxsize=1)
def encoded(folder: Path, image: str) -> EncodedImage:
    return segmenter(folder).encode(np.asarray(Image.open(folder / image).convert("RGB")))


every_case = pytest.mark.parametrize("case", _cases())


@every_case
def test_prompts_and_token_ids_are_identical(case: Case) -> None:
    turn = Turn(case.facts["user_prompt"])
    prompt = build_prompt([turn], template(case.conversation), im_start_end=case.start_end)
    tokenizer = Tokenizer.from_folder(case.folder / "ckpt")
    assert prompt.text == case.facts["prompt"]
    assert tokenizer.encode_prompt(prompt.text, prompt.literal) == case.facts["input_ids"]


@every_case
def test_decoded_text_is_identical(case: Case) -> None:
    tokenizer = Tokenizer.from_folder(case.folder / "ckpt")
    text = tokenizer.decode(i for i in case.facts["output_ids"] if i != IMAGE_ID)
    assert text.replace("\n", "").replace("  ", " ") == case.facts["text_output"]
    assert tokenizer.answer_text(case.facts["generated_ids"]) == case.facts["expected_answer"]


@every_case
@pytest.mark.parametrize("draft", [True, False], ids=["draft", "token_by_token"])
def test_answers_and_masks_equal_the_reference(case: Case, draft: bool) -> None:
    frame = encoded(case.folder, case.facts["image"])
    result = segment(segmenter(case.folder), frame, case.facts["user_prompt"], verbatim=True, draft=draft)
    assert result.answer == case.facts["expected_answer"]
    assert result.answer_ids == case.facts["generated_ids"]
    assert len(result.masks) == case.facts["num_seg"]
    assert result.masks.shape == result.mask_logits.shape == (case.facts["num_seg"], *case.facts["original_size"])
    if not case.facts["num_seg"]:
        return
    np.testing.assert_allclose(result.low_res_logits, case.arrays["low_res_masks"], rtol=0, atol=1e-4)
    for ours, theirs in zip(result.masks, case.masks, strict=True):
        assert np.sum(ours & theirs) / np.sum(ours | theirs) > 0.999


def test_other_checkpoint_formats_answer_the_same(tmp_path: Path) -> None:
    """The compact golden as two pickled shards, without a safetensors file in sight."""
    from safetensors.torch import load_file

    source, target = COMPACT / "ckpt", tmp_path / "ckpt"
    target.mkdir()
    for file in source.glob("*"):
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for shard, members in shards.items():
        torch.save({name: tensors[name] for name in members}, target / shard)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (target / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ours = Segmenter.from_checkpoint(target, vision_tower=COMPACT / "clip-tiny", device="cpu", precision="fp32")
    rgb = np.asarray(Image.open(COMPACT / "wide.png").convert("RGB"))
    command = "Where is the drink? Please output segmentation mask."
    result = segment(ours, ours.encode(rgb), command, verbatim=True)
    expected = np.load(COMPACT / "wide_0.npz")["low_res_masks"]
    np.testing.assert_allclose(result.low_res_logits, expected, rtol=0, atol=1e-4)


def test_teacher_forced_masks_equal_the_reference(goldens: Path) -> None:
    """The path of training: four padded conversations of one image at once."""
    for folder, image in [(goldens / "A", "coffee"), (goldens / "C", "wide")]:
        arrays, ours = np.load(folder / f"tf_{image}.npz"), segmenter(folder)
        lisa = ours.lisa
        ids = torch.from_numpy(arrays["input_ids"]).long()
        frame = encoded(folder, f"images/{image}.png")
        with torch.inference_mode():
            tokens = frame.features.tokens.expand(len(ids), -1, -1)
            ids = ids.gather(1, image_columns(ids, tokens.shape[1]))
            hidden = lisa.read(lisa.embed(ids, tokens))
            predicts = predicting(ids, ours.tokenizer.id_of("[SEG]"))
            embeddings = lisa.seg_projector(hidden[predicts])
            low_res = lisa.ground(hidden[predicts], ours.embed(frame.rgb))
        np.testing.assert_allclose(embeddings.numpy(), arrays["pred_embeddings"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(low_res.numpy(), arrays["low_res_masks"], rtol=0, atol=1e-4)


def test_pixels_are_identical(goldens: Path) -> None:
    from zlib import crc32

    facts = json.loads((goldens / "misc" / "preprocess.json").read_text())
    for height, width, *expected in facts["preprocess_shape"]:
        assert resized_size((height, width), 1024) == tuple(expected)
    compared = 0
    for name, told in facts["images"].items():
        files = [folder / "images" / f"{name}.png" for folder in (goldens / "A", goldens / "C")]
        for file in (file for file in files if file.is_file()):
            rgb = np.asarray(Image.open(file).convert("RGB"))
            assert crc32(for_sam(rgb, 1024).tobytes()) == told["sam_tensor_crc32"]
            assert crc32(for_clip(rgb, ClipPreprocessing()).tobytes()) == told["clip224_crc32"]
            compared += 1
    assert compared == 5


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"compact"}))
def test_conversation_templates_are_identical(goldens: Path, name: str) -> None:
    told = json.loads((goldens / "misc" / "prompts.json").read_text())[name]
    forms = {
        "chat": [Turn("q1")],
        "answered": [Turn("q1", "a1")],
        "two_turns_open": [Turn("q1", "a1"), Turn("q2")],
        "two_turns": [Turn("q1", "a1"), Turn("q2", "a2")],
    }
    for form, turns in forms.items():
        ours = build_prompt(turns, template(name), im_start_end=False).text
        assert ours.replace("<image>\n", "") == told[form]
