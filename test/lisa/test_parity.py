"""The same numbers as the reference: prompts, token ids, answers, pixels, logits, masks.

Golden C is complete; golden A has its language model and a SAM drawn from seeds (test/golden/README.md). The full ones
are compared too where they lie beside the checkout.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from goldens import FULL, GOLDEN, GOLDEN_A, Case, iou, read_cases, read_rgb, thinned, unpacked_masks
from safetensors.torch import load_file, save_file

from lisa_ros import load_engine
from lisa_ros.engine.api import Answer, Ask, Turn
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.lisa.grounding import Features
from lisa_ros.lisa.model.lisa import image_columns
from lisa_ros.lisa.preprocess import ClipPreprocessing, for_clip, for_sam, resized_size
from lisa_ros.lisa.prompt import build_prompt, template
from lisa_ros.lisa.tokenizer import IMAGE_ID, Tokenizer

EVERY_CASE = [pytest.param(case, id=case.name) for folder in (GOLDEN, GOLDEN_A, *FULL) for case in read_cases(folder)]
every_case = pytest.mark.parametrize("case", EVERY_CASE)

EngineOf = Callable[[Path], SupportedEngine]


@pytest.fixture(scope="module")
def engine_of(checkpoint_a: Path) -> EngineOf:
    """The engine of a golden folder; the last one is held."""

    @lru_cache(maxsize=1)
    def load(folder: Path) -> SupportedEngine:
        checkpoint = checkpoint_a if folder == GOLDEN_A else folder / "ckpt"
        return load_engine(checkpoint, device="cpu", precision="fp32")

    return load


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


def assert_same_answer(answer: Answer, case: Case) -> None:
    """Words and ids are identical; logits within 1e-4, probabilities within 1e-5."""
    count, details = case.facts["num_seg"], answer.details or {}
    assert answer.text == case.facts["expected_answer"]
    assert details["answer_ids"] == case.facts["generated_ids"]
    assert details["mask_logits"].shape == (count, *case.facts["original_size"])
    if not count:
        return
    if "seg_probabilities" in case.facts:
        np.testing.assert_allclose(details["seg_probabilities"], case.facts["seg_probabilities"], rtol=0, atol=1e-5)
    expected = case.low_res_logits
    np.testing.assert_allclose(thinned(details["low_res_logits"], expected), expected, rtol=0, atol=1e-4)
    for ours, theirs in zip(details["mask_logits"] > 0, case.masks, strict=True):
        assert iou(ours, theirs) > 0.999


@every_case
def test_answers_and_masks_equal_the_references(case: Case, engine_of: EngineOf) -> None:
    engine = engine_of(case.folder)
    ask = Ask(case.facts["user_prompt"], verbatim=True)
    assert_same_answer(engine.ask(engine.encode(case.rgb), ask, details=True), case)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in read_cases(GOLDEN)])
def test_the_answer_is_the_same_without_drafts(case: Case, engine_of: EngineOf) -> None:
    engine: Any = engine_of(case.folder).engine
    ask = Ask(case.facts["user_prompt"], verbatim=True)
    assert_same_answer(engine.ask(engine.encode(case.rgb), ask, details=True, draft=False), case)


# --- the files of a checkpoint ---


def sharded(tensors: dict[str, torch.Tensor], target: Path, extension: str) -> None:
    """Two shards with an index, as transformers writes them."""
    stem = "model" if extension == "safetensors" else "pytorch_model"
    names = sorted(tensors)
    shards = {
        f"{stem}-00001-of-00002.{extension}": names[::2],
        f"{stem}-00002-of-00002.{extension}": names[1::2],
    }
    for shard, members in shards.items():
        part = {name: tensors[name] for name in members}
        if extension == "safetensors":
            save_file(part, target / shard)
        else:
            torch.save(part, target / shard)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (target / f"{stem}.{extension}.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("extension", ["bin", "safetensors"])
def test_shards_of_either_format_answer_as_the_reference(tmp_path: Path, extension: str) -> None:
    """Golden C in two shards, its CLIP tower somewhere else."""
    target = tmp_path / "ckpt"
    target.mkdir()
    for file in (GOLDEN / "ckpt").glob("*"):
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    sharded(load_file(GOLDEN / "ckpt" / "model.safetensors"), target, extension)
    options = {"vision_tower": str(GOLDEN / "clip-tiny")}
    engine = load_engine(target, device="cpu", precision="fp32", options=options)
    case = next(read_cases(GOLDEN))
    ask = Ask(case.facts["user_prompt"], verbatim=True)
    assert_same_answer(engine.ask(engine.encode(case.rgb), ask, details=True), case)


# --- answers that are given ---


TEACHER_FORCED = json.loads((GOLDEN / "cases.json").read_text("utf-8"))["teacher_forced"]
every_picture = pytest.mark.parametrize("facts", [pytest.param(facts, id=facts["image"]) for facts in TEACHER_FORCED])


@every_picture
def test_teacher_forced_masks_equal_the_references(facts: dict[str, Any], engine_of: EngineOf) -> None:
    """The path of training: four padded conversations of one picture at once."""
    arrays, ours = np.load(GOLDEN / facts["npz"]), engine_of(GOLDEN).engine
    lisa = ours.lisa
    ids = torch.from_numpy(arrays["input_ids"]).long()
    frame = ours.encode(read_rgb(GOLDEN / facts["image"]))
    with torch.inference_mode():
        tokens = frame.features.tokens.expand(len(ids), -1, -1)
        ids = ids.gather(1, image_columns(ids, tokens.shape[1]))
        hidden = lisa.read(ours.grounding.embed(ids, tokens))
        predicts = ours.grounding.predicts_mask(ids)
        embeddings = lisa.seg_projector(hidden[predicts])
        features = Features(frame.features.tokens, ours.embed(frame.rgb))
        low_res = ours.grounding.masks(hidden[predicts], features).numpy()
    expected = arrays["low_res_masks"]
    np.testing.assert_allclose(embeddings.numpy(), arrays["pred_embeddings"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(thinned(low_res, expected), expected, rtol=0, atol=1e-4)


@every_picture
def test_the_masks_of_a_given_answer_equal_the_references(facts: dict[str, Any], engine_of: EngineOf) -> None:
    engine = engine_of(GOLDEN)
    rgb = read_rgb(GOLDEN / facts["image"])
    frame = engine.encode(rgb)
    masks = list(unpacked_masks(np.load(GOLDEN / facts["npz"])))
    for conversation, count in zip(facts["conversations"], facts["n_seg_per_conv"], strict=True):
        question, _, answer = conversation.partition("<im_end>\n")[2].partition(" ASSISTANT: ")
        union = engine.teacher_forced(frame, [Ask(question, verbatim=True)], [answer.removesuffix("</s>")])
        expected, masks = np.array(masks[:count]).reshape(-1, *rgb.shape[:2]), masks[count:]
        assert union.shape == rgb.shape[:2]
        assert (union ^ np.any(expected, axis=0)).sum() <= 0.001 * np.sum(expected)


# --- pixels and prompts ---


PIXELS = json.loads((GOLDEN / "misc" / "preprocess.json").read_text("utf-8"))
PICTURES = [GOLDEN / "wide.png", GOLDEN / "tall.png", GOLDEN_A / "cat.png"]
PICTURES += [file for folder in FULL for file in sorted((folder / "images").glob("*.png"))]


@pytest.mark.parametrize("file", [pytest.param(file, id=f"{file.parent.name}-{file.stem}") for file in PICTURES])
def test_pixels_are_identical(file: Path) -> None:
    facts, rgb = PIXELS["images"][file.stem], read_rgb(file)
    assert list(rgb.shape[:2]) == facts["size"]
    assert crc32(for_sam(rgb, 1024).tobytes()) == facts["sam_tensor_crc32"]
    assert crc32(for_clip(rgb, ClipPreprocessing()).tobytes()) == facts["clip224_crc32"]


def test_sizes_after_resizing_are_identical() -> None:
    assert len(PIXELS["preprocess_shape"]) == 17
    for height, width, *expected in PIXELS["preprocess_shape"]:
        assert resized_size((height, width), 1024) == tuple(expected)


@pytest.mark.parametrize("name", ["llava_llama_2", "llava_v1", "v1"])
def test_conversation_templates_are_identical(name: str) -> None:
    recorded = json.loads((GOLDEN / "misc" / "prompts.json").read_text("utf-8"))[name]
    forms = {
        "chat": [Turn("q1")],
        "answered": [Turn("q1", "a1")],
        "two_turns_open": [Turn("q1", "a1"), Turn("q2")],
        "two_turns": [Turn("q1", "a1"), Turn("q2", "a2")],
    }
    for form, turns in forms.items():
        ours = build_prompt(turns, template(name), im_start_end=False).text
        assert ours.replace("<image>\n", "") == recorded[form]


def test_the_text_of_llava_llama_2_is_the_references() -> None:
    """Written out, since models of Llama 2 read nothing else well."""
    system = (
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language."
    )
    turns = [Turn("q1", "a1"), Turn("q2")]
    expected = (
        f"[INST] <<SYS>>\n{system}\n<</SYS>>\n\n<im_start><image><im_end>\nq1 [/INST] a1 </s><s>[INST] q2 [/INST]"
    )
    assert build_prompt(turns, template("llava_llama_2"), im_start_end=True).text == expected
