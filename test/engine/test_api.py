"""The values of the engine interface."""

from __future__ import annotations

import numpy as np
import pytest

from lisa_ros.engine.api import (
    MAX_TARGETS,
    Answer,
    Ask,
    Conversation,
    Engine,
    EngineInfo,
    Region,
    Timings,
    Turn,
    crop_mask,
)

EMPTY = crop_mask(np.zeros((4, 4), bool))


def test_a_crop_is_tight_and_has_the_masks_pixels() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:22] = True
    mask[4, 10] = False
    crop = crop_mask(mask, label=3, score=0.5)
    assert (crop.label, crop.score, crop.area) == (3, 0.5, int(mask.sum()))
    assert (crop.x, crop.y, crop.width, crop.height) == (10, 4, 12, 5)
    assert crop.pixels.dtype == np.uint8
    assert set(np.unique(crop.pixels)) == {0, 255}
    assert np.array_equal(crop.pixels > 0, mask[4:9, 10:22])


def test_the_centroid_is_the_mean_pixel_position() -> None:
    mask = np.random.default_rng(0).random((33, 47)) > 0.8
    rows, columns = np.nonzero(mask)
    assert crop_mask(mask).centroid == pytest.approx((columns.mean(), rows.mean()))
    corner = np.zeros((5, 5), bool)
    corner[0, 0] = True
    assert crop_mask(corner).centroid == (0.0, 0.0)


def test_an_empty_mask_has_no_box_and_no_pixels() -> None:
    assert (EMPTY.x, EMPTY.y, EMPTY.width, EMPTY.height, EMPTY.area) == (0, 0, 0, 0, 0)
    assert EMPTY.pixels.shape == (0, 0)


def test_a_crop_does_not_share_memory_with_the_mask() -> None:
    mask = np.ones((4, 4), bool)
    crop = crop_mask(mask)
    mask[:] = False
    assert crop.pixels.all()


def test_span_is_the_first_of_spans_whichever_is_given() -> None:
    assert Region(EMPTY).spans == ()
    assert Region(EMPTY).span is None
    assert Region(EMPTY, span=(3, 5)).spans == ((3, 5),)
    assert Region(EMPTY, spans=[(3, 5), (8, 9)]).span == (3, 5)


def test_a_span_beside_spans_comes_first_and_once() -> None:
    both = Region(EMPTY, spans=[(3, 5), (8, 9)], span=(8, 9))
    assert both.spans == ((8, 9), (3, 5))
    assert Region(EMPTY, spans=[(3, 5)], span=(1, 2)).spans == ((1, 2), (3, 5))


def test_limits_grow_with_the_number_of_targets() -> None:
    assert (Ask("x").mask_limit, Ask("x").token_limit) == (32, 512)
    many = Ask(targets=["cup"] * 100)
    assert many.mask_limit == 200
    assert many.token_limit > 512 + 100
    assert Ask(targets=["cup"] * MAX_TARGETS).mask_limit == MAX_TARGETS
    assert Ask(targets=["cup"], max_new_tokens=7).token_limit > 7


def test_a_conversation_keeps_the_newest_turns() -> None:
    talk = Conversation(max_turns=2)
    for number in range(4):
        talk.append(Turn(f"question {number}", "answer"))
    assert [turn.question for turn in talk.turns] == ["question 2", "question 3"]
    talk.clear()
    assert talk.turns == []


def test_only_an_answer_with_a_pixel_has_found_something() -> None:
    assert not Answer("None.").found
    assert not Answer("It.", [Region(EMPTY)]).found
    assert Answer("It.", [Region(EMPTY), Region(crop_mask(np.ones((2, 2), bool)))]).found


def test_all_fields_but_the_first_have_defaults() -> None:
    assert (Answer("x").regions, Answer("x").absent, Answer("x").timings) == ((), (), Timings())
    assert EngineInfo("x").capabilities == frozenset()


def test_an_engine_needs_no_base_class() -> None:
    class Minimal:
        info = EngineInfo("minimal")

        def encode(self, rgb):
            return rgb

        def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
            return Answer("")

    assert isinstance(Minimal(), Engine)
    assert not isinstance(object(), Engine)
