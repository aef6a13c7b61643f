"""The same numbers as ELISA's reference: prompts, ids, rows, image features, logits (test/golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import read_rgb
from tiny_elisa import ELISA, drawn_alpha_clip

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Proposals
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.extractive.extractor import Extractor
from lisa_ros.extractive.model.alpha_clip import from_tensors
from lisa_ros.extractive.reader import LlavaReader
from lisa_ros.extractive.words import Message
from lisa_ros.lisa.preprocess import for_clip
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_ros.lisa.weights.spec import read_clip

CASES: dict[str, Any] = json.loads((ELISA / "cases.json").read_text("utf-8"))
every_case = pytest.mark.parametrize("number", range(len(CASES["generate"])))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(ELISA / "generate.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=[True, False], ids=["parity", "default"])
def engine(request: pytest.FixtureRequest) -> SupportedEngine:
    return load_engine(ELISA, "cpu", "fp32", {"family": "elisa", "parity": request.param})


def reader_of(engine: SupportedEngine) -> LlavaReader:
    extractor = engine.engine
    assert isinstance(extractor, Extractor)
    assert isinstance(extractor.reader, LlavaReader)
    return extractor.reader


def picture_of(case: dict[str, Any]) -> str:
    return Path(case["image"]).stem.removeprefix("image")


def test_rows_of_proposals_are_the_references(engine: SupportedEngine, arrays: dict[str, np.ndarray]) -> None:
    adapter = reader_of(engine).model.adapter
    for picture in "012":
        rows = adapter(torch.from_numpy(arrays[f"embeddings_{picture}"]))
        np.testing.assert_allclose(rows.numpy(), arrays[f"adapted_{picture}"], rtol=0, atol=1e-5)


def test_rows_stand_behind_the_words_and_padding_moves_up(
    engine: SupportedEngine, arrays: dict[str, np.ndarray]
) -> None:
    model = reader_of(engine).model
    rows = torch.from_numpy(arrays["adapted_0"])
    vocabulary = model.vocabulary(rows)
    first = CASES["image_token_id"] + 1
    expected = torch.cat([model.words[:first], rows, model.words[first:]])
    assert (vocabulary.first, vocabulary.end, len(vocabulary)) == (first, first + len(rows), len(expected))
    hidden = torch.randn(3, expected.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(vocabulary.logits(hidden), hidden @ expected.T)
    embedded = vocabulary.embed(torch.arange(len(expected)))
    torch.testing.assert_close(embedded, expected * expected.shape[1] ** 0.5)


def test_pixels_are_the_references(arrays: dict[str, np.ndarray]) -> None:
    pixels = for_clip(read_rgb(ELISA / "images/image0.png"), read_clip(ELISA / "llava").preprocessing)
    np.testing.assert_allclose(pixels, arrays["pixels_0"][0], rtol=0, atol=1e-6)


@every_case
def test_prompts_and_their_ids_are_identical(engine: SupportedEngine, number: int) -> None:
    case = CASES["generate"][number]
    ids = reader_of(engine).prompt([Message(case["query"])], case["n_masks"])
    assert ids.count(IMAGE_ID) == CASES["image_patches"]
    at = ids.index(IMAGE_ID)
    once = [*ids[:at], CASES["image_token_id"], *ids[at + CASES["image_patches"] :]]
    assert once == case["prompt_ids"]


@every_case
def test_answers_and_logits_are_the_references(
    engine: SupportedEngine, arrays: dict[str, np.ndarray], number: int
) -> None:
    case = CASES["generate"][number]
    proposals = Proposals(embeddings=arrays[f"embeddings_{picture_of(case)}"])
    encoded = engine.encode(read_rgb(ELISA / "images" / case["image"]))
    features = encoded.value.seen.tokens[0].numpy()
    np.testing.assert_allclose(features, arrays[f"image_features_{picture_of(case)}"], rtol=0, atol=1e-5)
    answer = engine.ask(encoded, Ask(case["query"], verbatim=True, proposals=proposals), details=True)
    details = answer.details or {}
    if case["as_fitted"]:
        assert details["answer_ids"] == case["generated_ids"]
        assert details["proposal_ids"] == list(dict.fromkeys(n - 1 for n in case["mask_numbers_in_order"]))
        assert sorted(details["proposal_ids"]) == case["chosen_tokens_0based"]
    expected = arrays[f"step_logits_{number}"]
    assert details["step_logits"].dtype == np.float32
    np.testing.assert_allclose(details["step_logits"][: len(expected)], expected, rtol=0, atol=2e-4)


def test_alpha_clip_gives_the_references_features() -> None:
    facts = json.loads((ELISA / "alphaclip.json").read_text("utf-8"))
    model = from_tensors(drawn_alpha_clip(facts), facts["config"]["heads"])
    with np.load(ELISA / "alphaclip.npz") as file:
        side = facts["config"]["input_resolution"]
        mask = np.unpackbits(file["mask"]).reshape(1, 1, side, side).astype(np.float32)
        features = model(torch.from_numpy(file["image"]), torch.from_numpy((mask - 0.5) / 0.26))
        np.testing.assert_allclose(features.numpy(), file["features"], rtol=0, atol=1e-5)
        unit = torch.nn.functional.normalize(features, dim=1)
        np.testing.assert_allclose(unit.numpy(), file["embedding"], rtol=0, atol=1e-5)
