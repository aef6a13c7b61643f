"""LISA behind the engine interface: what an answer holds, which events come, what the model reads."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from goldens import GOLDEN, GOLDEN_A, Case, read_cases
from numpy.typing import NDArray

from lisa_ros import load_engine
from lisa_ros.engine.api import Answer, Ask, Conversation, Event, Region, Regions, Token, Turn
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.lisa.tokenizer import Tokenizer

CASES = {case.facts["id"]: case for case in read_cases(GOLDEN)}
SHARE = 0.1


def load(folder: Path) -> SupportedEngine:
    return load_engine(
        folder, device="cpu", precision="fp32", options={"vision_tower": str(GOLDEN / "clip-tiny"), "family": "lisa"}
    )


@pytest.fixture(scope="module")
def engine() -> SupportedEngine:
    return load(GOLDEN / "ckpt")


def ask(engine: SupportedEngine, case: Case, *, text: str = "", **options: object) -> tuple[Answer, list[Event]]:
    """The answer to a recorded question, and the events on its way."""
    events: list[Event] = []
    question = Ask(text or case.facts["user_prompt"], **({"verbatim": True} | options))
    return engine.ask(encoded(engine, case), question, on_event=events.append, details=True), events


@cache
def encoded(engine: SupportedEngine, case: Case) -> Any:
    """Encoding is the slow part: once for all questions about a picture."""
    return engine.encode(case.rgb)


def whole(region: Region, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A region's mask (H, W)."""
    mask, crop = np.zeros(size, bool), region.mask
    mask[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
    return mask


# --- what an answer holds


@pytest.mark.parametrize("name", CASES)
def test_details_have_one_row_for_each_seg_also_for_none(engine: SupportedEngine, name: str) -> None:
    case = CASES[name]
    answer, _ = ask(engine, case)
    count, size = case.facts["num_seg"], tuple(case.facts["original_size"])
    details = answer.details or {}
    shapes = {"mask_logits": (count, *size), "low_res_logits": (count, 1, 256, 256), "seg_probabilities": (count,)}
    for field, shape in shapes.items():
        assert details[field].shape == shape
        assert details[field].dtype == np.float32
    assert details["answer_ids"] == case.facts["generated_ids"]
    assert len(answer.regions) == count
    assert answer.found == bool(count)
    assert list(answer.absent) == []


def test_details_are_left_out_unless_asked_for(engine: SupportedEngine) -> None:
    case = CASES["wide_1"]
    with_details, _ = ask(engine, case)
    answer = engine.ask(encoded(engine, case), Ask(case.facts["user_prompt"], verbatim=True))
    assert answer.details is None
    assert answer.text == with_details.text
    assert [region.mask.area for region in answer.regions] == [region.mask.area for region in with_details.regions]


@pytest.mark.parametrize("name", CASES)
def test_every_region_points_at_its_own_seg_in_the_text(engine: SupportedEngine, name: str) -> None:
    answer, _ = ask(engine, CASES[name])
    begins, at = [], answer.text.find("[SEG]")
    while at >= 0:
        begins.append(at)
        at = answer.text.find("[SEG]", at + 1)
    assert [region.spans for region in answer.regions] == [((begin, begin + 5),) for begin in begins]
    assert [region.span for region in answer.regions] == [(begin, begin + 5) for begin in begins]


@pytest.mark.parametrize("name", ["wide_0", "wide_1", "tall_0"])
def test_a_score_is_the_probability_of_seg_times_the_mean_inside_the_mask(engine: SupportedEngine, name: str) -> None:
    answer, _ = ask(engine, CASES[name])
    assert_scores(answer)


def assert_scores(answer: Answer) -> None:
    details = answer.details or {}
    for region, logits, seg in zip(answer.regions, details["mask_logits"], details["seg_probabilities"], strict=True):
        inside = logits[whole(region, logits.shape)].astype(np.float64)
        assert region.score == pytest.approx(seg * np.mean(1 / (1 + np.exp(-inside))), abs=1e-5)
        assert region.mask.score == region.score


# --- small parts of a mask


@pytest.fixture(scope="module")
def cleaning(tmp_path_factory: pytest.TempPathFactory) -> SupportedEngine:
    """The same checkpoint, but parts below a tenth of the largest are removed."""
    folder = tmp_path_factory.mktemp("cleaning") / "ckpt"
    folder.mkdir()
    for file in (GOLDEN / "ckpt").iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((folder / "config.json").read_text("utf-8")) | {"lisa": {"smallest_part": SHARE}}
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return load(folder)


def large_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts with at least ``SHARE`` of the largest one's pixels."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8))
    areas = [int((parts == part).sum()) for part in range(1, count)]
    large = [part for part, area in enumerate(areas, 1) if area >= SHARE * max(areas)]
    return np.isin(parts, large)


@pytest.mark.parametrize("name", ["wide_0", "wide_1"])
def test_specks_are_in_the_raw_logits_and_not_in_the_region(cleaning: SupportedEngine, name: str) -> None:
    case = CASES[name]
    answer, _ = ask(cleaning, case)
    logits = (answer.details or {})["mask_logits"]
    for region, raw, recorded in zip(answer.regions, logits > 0, case.masks, strict=True):
        assert (raw ^ recorded).sum() <= 0.001 * recorded.sum()
        expected = large_parts(raw)
        assert 0 < expected.sum() < raw.sum()
        np.testing.assert_array_equal(whole(region, raw.shape), expected)
        assert region.mask.area == expected.sum()
    assert_scores(answer)


def test_without_a_smallest_part_every_pixel_stays(engine: SupportedEngine) -> None:
    answer, _ = ask(engine, CASES["wide_1"])
    for region, logits in zip(answer.regions, (answer.details or {})["mask_logits"], strict=True):
        np.testing.assert_array_equal(whole(region, logits.shape), logits > 0)


# --- what comes on the way


@pytest.mark.parametrize("name", CASES)
def test_token_events_grow_into_the_whole_text(engine: SupportedEngine, name: str) -> None:
    answer, events = ask(engine, CASES[name])
    texts = [event.text for event in events if isinstance(event, Token)]
    assert texts[-1] == answer.text
    for text, longer in pairwise(texts):
        assert longer.startswith(text)


@pytest.mark.parametrize("name", CASES)
def test_each_region_is_sent_once_in_the_order_of_the_text(engine: SupportedEngine, name: str) -> None:
    answer, events = ask(engine, CASES[name])
    assert_sent_once(answer, events)


def test_two_regions_of_one_answer_come_one_after_the_other(checkpoint_a: Path) -> None:
    """A model that was just loaded has no draft of this answer, so the second [SEG] comes later than the first."""
    case = next(case for case in read_cases(GOLDEN_A) if case.facts["num_seg"] == 2)
    engine = load_engine(checkpoint_a, device="cpu", precision="fp32")
    answer, events = ask(engine, case)
    assert [len(event.regions) for event in events if isinstance(event, Regions)] == [1, 1]
    assert_sent_once(answer, events)


def assert_sent_once(answer: Answer, events: list[Event]) -> None:
    sent = [region for event in events if isinstance(event, Regions) for region in event.regions]
    assert len(sent) == len(answer.regions)
    assert all(ours is theirs for ours, theirs in zip(sent, answer.regions, strict=True))
    assert all(event.regions for event in events if isinstance(event, Regions))


def test_an_answer_is_cut_off_at_the_limit_of_tokens(engine: SupportedEngine) -> None:
    case = CASES["wide_1"]
    ids = case.facts["generated_ids"]
    seg = Tokenizer.from_folder(GOLDEN / "ckpt").id_of("[SEG]")
    for limit in range(1, len(ids) + 2):
        answer, events = ask(engine, case, max_new_tokens=limit)
        assert (answer.details or {})["answer_ids"] == ids[:limit]
        assert len(answer.regions) == ids[:limit].count(seg)
        assert [event for event in events if isinstance(event, Token)][-1].text == answer.text


# --- what the model reads


@pytest.fixture
def prompts(engine: SupportedEngine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """Text and ids of every prompt from now on."""
    seen: list[tuple[str, list[int]]] = []
    encode = Tokenizer.encode_prompt

    def spy(self: Tokenizer, text: str, literal: list[tuple[int, int]] | tuple[()] = ()) -> list[int]:
        ids = encode(self, text, literal)
        seen.append((text, ids))
        return ids

    monkeypatch.setattr(Tokenizer, "encode_prompt", spy)
    return seen


@pytest.mark.parametrize("name", CASES)
def test_a_verbatim_question_is_read_as_the_reference_read_it(
    engine: SupportedEngine, prompts: list[tuple[str, list[int]]], name: str
) -> None:
    case = CASES[name]
    ask(engine, case, max_new_tokens=1)
    assert prompts[-1] == (case.facts["prompt"], case.facts["input_ids"])


@pytest.mark.parametrize(("before", "after"), [("  ", ""), ("", "  "), ("\n\t ", " \n")])
def test_a_verbatim_question_keeps_its_outer_blanks(
    engine: SupportedEngine, prompts: list[tuple[str, list[int]]], before: str, after: str
) -> None:
    case, talk = CASES["wide_0"], Conversation()
    question = before + case.facts["user_prompt"] + after
    answer, _ = ask(engine, case, text=question, history=talk, max_new_tokens=4)
    text, ids = prompts[-1]
    assert text == case.facts["prompt"].replace(case.facts["user_prompt"], question)
    assert talk.turns == [Turn(question, answer.text)]
    if not after:  # the reference's <im_end> takes the blanks behind it, as it takes its own line break
        assert ids == case.facts["input_ids"]


def test_other_commands_are_put_into_the_sentences_of_training(
    engine: SupportedEngine, prompts: list[tuple[str, list[int]]]
) -> None:
    case = CASES["wide_0"]
    ask(engine, case, text=" the  drink ", verbatim=False, max_new_tokens=1)
    sentence = "What is the drink in this image? Please output segmentation mask."
    assert prompts[-1][0] == case.facts["prompt"].replace(case.facts["user_prompt"], sentence)
