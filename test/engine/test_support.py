"""Rules that hold for every engine: checks before the question, targets one by one, answers that make sense."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lisa_ros.engine.api import (
    CAPABILITIES,
    EXPLAIN,
    HISTORY,
    MAX_TARGETS,
    POINTS,
    PROPOSALS,
    TARGETS,
    TEACHER_FORCED,
    Answer,
    Ask,
    Conversation,
    EngineInfo,
    MaskCrop,
    Proposals,
    Region,
    Regions,
    Stage,
    Timings,
    Token,
    Turn,
    crop_mask,
)
from lisa_ros.engine.support import Encoded, SupportedEngine, numbered
from lisa_ros.errors import Cancelled, CommandError, ConfigError, ImageError

SIZE = (12, 16)
FRAME = Encoded(SIZE, None)
MASK = crop_mask(np.ones(SIZE, bool))
EMPTY = crop_mask(np.zeros(SIZE, bool))


class Scripted:
    """An engine that gives a fixed answer to each text, and keeps what it was asked."""

    def __init__(self, answers: dict[str, Any], capabilities: set[str] = frozenset()) -> None:
        self.info = EngineInfo("scripted", capabilities=frozenset(capabilities))
        self.answers = answers
        self.asks: list[Ask] = []

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        self.asks.append(ask)
        answer = self.answers[ask.text]
        if isinstance(answer, Answer):
            on_event(Stage("generating"))
            on_event(Token(answer.text))
            if answer.regions:
                on_event(Regions(answer.regions))
        return answer


def found(text: str, begin: int, end: int, **fields: Any) -> Answer:
    return Answer(text, [Region(MASK, 0.5, span=(begin, end))], **fields)


KITCHEN = {
    "cup": found("A cup, [SEG].", 7, 12),
    "saw": Answer("There is no saw."),
    "plate": Answer("Ä plate: [SEG] [SEG].", [Region(MASK, 0.5, "a plate", spans=[(9, 14)]), Region(EMPTY, 0.1)]),
    "fog": Answer("It, [SEG].", [Region(EMPTY, 0.1, span=(4, 9))]),
}


# --- targets


def test_targets_are_asked_one_by_one_and_joined_as_one_answer() -> None:
    engine = Scripted(KITCHEN)
    answer = SupportedEngine(engine).ask(FRAME, Ask(targets=["cup", "saw", "plate"]))
    assert [ask.text for ask in engine.asks] == ["cup", "saw", "plate"]
    assert answer.text == "A cup, [SEG].\nThere is no saw.\nÄ plate: [SEG] [SEG]."
    first, second, third = answer.regions
    assert [answer.text[slice(*region.span)] for region in (first, second)] == ["[SEG]", "[SEG]"]
    assert first.span[0] < answer.text.index("plate") < second.span[0]
    assert third.spans == ()
    assert [region.phrase for region in answer.regions] == ["cup", "plate", "plate"]
    assert answer.absent == ("saw",)


def test_a_target_with_an_empty_mask_only_is_absent() -> None:
    answer = SupportedEngine(Scripted(KITCHEN)).ask(FRAME, Ask(targets=["fog", "cup"]))
    assert answer.absent == ("fog",)
    assert len(answer.regions) == 2


def test_every_other_field_of_the_ask_reaches_each_target() -> None:
    engine = Scripted(KITCHEN, {POINTS, EXPLAIN})
    ask = Ask("", explain=True, verbatim=True, targets=("cup", "saw"), points=[(1, 2)], max_new_tokens=9)
    SupportedEngine(engine).ask(FRAME, ask)
    for one in engine.asks:
        assert (one.targets, one.history, one.explain, one.verbatim) == ((), None, True, True)
        assert (one.points, one.max_new_tokens) == (((1, 2),), 9)


def test_a_target_that_is_named_twice_is_asked_once() -> None:
    engine = Scripted(KITCHEN)
    answer = SupportedEngine(engine).ask(FRAME, Ask(targets=("cup", "saw", "cup", "saw")))
    assert [ask.text for ask in engine.asks] == ["cup", "saw"]
    assert [region.phrase for region in answer.regions] == ["cup"]
    assert answer.absent == ("saw",)


def test_an_engine_with_the_capability_gets_all_targets_at_once() -> None:
    engine = Scripted({"": Answer("Both.", absent=["saw"])}, {TARGETS})
    answer = SupportedEngine(engine).ask(FRAME, Ask(targets=("cup", "saw")))
    assert [list(ask.targets) for ask in engine.asks] == [["cup", "saw"]]
    assert list(answer.absent) == ["saw"]


def test_one_turn_is_appended_to_the_history_for_all_targets() -> None:
    engine, history = Scripted(KITCHEN, {HISTORY}), Conversation()
    history.append(Turn("before", "it"))
    answer = SupportedEngine(engine).ask(FRAME, Ask(targets=("cup", "saw"), history=history))
    assert history.turns[1:] == [Turn("cup, saw", answer.text)]
    assert all(ask.history is None for ask in engine.asks)


def test_events_of_targets_are_those_of_one_answer() -> None:
    events: list[Any] = []
    answer = SupportedEngine(Scripted(KITCHEN)).ask(FRAME, Ask(targets=("cup", "saw", "plate")), events.append)
    texts = [event.text for event in events if isinstance(event, Token)]
    assert all(answer.text.startswith(text) for text in texts)
    assert texts[-1] == answer.text
    sent = [region for event in events if isinstance(event, Regions) for region in event.regions]
    assert [id(region) for region in sent] == [id(region) for region in answer.regions]


def test_the_work_stops_between_two_targets() -> None:
    engine = Scripted(KITCHEN)
    with pytest.raises(Cancelled):
        SupportedEngine(engine).ask(FRAME, Ask(targets=("cup", "saw")), should_stop=lambda: len(engine.asks) == 1)
    assert len(engine.asks) == 1


def test_details_of_targets_are_joined() -> None:
    def details(count: int, ids: list[int]) -> dict[str, Any]:
        return {
            "answer_ids": ids,
            "mask_logits": np.full((count, *SIZE), len(ids), np.float32),
            "seg_probabilities": np.full(count, 0.5, np.float32),
        }

    answers = {
        "cup": found("A cup, [SEG].", 7, 12, details=details(1, [1, 2])),
        "saw": Answer("None.", details=details(0, [3])),
    }
    answer = SupportedEngine(Scripted(answers)).ask(FRAME, Ask(targets=("cup", "saw")), details=True)
    assert answer.details["answer_ids"] == [[1, 2], [3]]
    assert answer.details["mask_logits"].shape == (1, *SIZE)
    assert answer.details["seg_probabilities"].tolist() == [0.5]
    assert SupportedEngine(Scripted(answers)).ask(FRAME, Ask(targets=("cup", "saw"))).details is None


def test_timings_of_targets_add_up() -> None:
    answers = {
        "saw": Answer("None.", timings=Timings(generate_s=1, total_s=1)),
        "cup": found("A cup, [SEG].", 7, 12, timings=Timings(1, 2, 3, first_mask_s=4, total_s=6)),
        "mug": found("A mug, [SEG].", 7, 12, timings=Timings(1, 2, 3, first_mask_s=4, total_s=6)),
    }
    timings = SupportedEngine(Scripted(answers)).ask(FRAME, Ask(targets=("saw", "cup", "mug"))).timings
    assert timings == Timings(encode_s=2, generate_s=5, decode_s=6, first_mask_s=5, total_s=13)


def test_as_many_targets_as_labels_are_allowed() -> None:
    names = [f"cup {number}" for number in range(MAX_TARGETS)]
    engine = Scripted(dict.fromkeys(names, KITCHEN["cup"]))
    answer = SupportedEngine(engine).ask(FRAME, Ask(targets=names))
    assert len(answer.regions) == MAX_TARGETS
    with pytest.raises(CommandError, match="256 targets; at most 255"):
        SupportedEngine(engine).ask(FRAME, Ask(targets=[*names, "cup"]))
    assert len(engine.asks) == MAX_TARGETS


# --- questions that cannot be asked


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Ask(), "the command is empty"),
        (Ask("  "), "the command is empty"),
        (Ask(3), "the command is 3; it must be text"),
        (Ask(targets="cup"), "targets is the text 'cup'; give a sequence"),
        (Ask(targets=["cup", ""]), "a target is ''; each must be a name"),
        (Ask(targets=["cup", 3]), "a target is 3; each must be a name"),
        (Ask("x", points=[(1, 2)]), "scripted takes no points; it supports commands in words only"),
        (Ask(box=(1, 2, 3, 4)), "scripted takes neither points nor a box; it supports commands in words only"),
        (Ask("x", proposals=Proposals()), "scripted takes no proposals"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused_before_the_engine_works(ask: Ask, message: str) -> None:
    engine = Scripted({})
    with pytest.raises(CommandError, match=message):
        SupportedEngine(engine).ask(FRAME, ask)
    assert engine.asks == []


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Ask(points=[(1, 2)], point_labels=[1, 0]), "2 point_labels for 1 points"),
        (Ask(points=[(1, 2)], point_labels=[2]), r"point_labels are \[2\]; use 1"),
        (Ask(points=[(1, float("nan"))]), "must be finite"),
        (Ask(points=[(1, 2, 3)]), r"points are \[\(1, 2, 3\)\]; give pairs"),
        (Ask(box=(1, 2, 3, float("inf"))), "must be finite"),
        (Ask(box=(1, 2, 0, 4)), "the box is 0 x 4 pixels; width and height must be above 0"),
        (Ask(box=(1, 2, 3)), r"the box is \(1, 2, 3\); give x, y, width and height"),
    ],
)
def test_points_and_boxes_that_make_no_sense_are_refused(ask: Ask, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        SupportedEngine(Scripted({}, {POINTS})).ask(FRAME, ask)


def test_points_a_box_or_proposals_alone_are_a_question() -> None:
    engine = Scripted({"": Answer("Yes.")}, {POINTS, PROPOSALS})
    for ask in (Ask(points=[(1, 2)]), Ask(box=(1, 2, 3, 4))):
        assert SupportedEngine(engine).ask(FRAME, ask).text == "Yes."


def test_an_error_about_a_capability_lists_the_supported_ones() -> None:
    with pytest.raises(CommandError, match="it supports explain, history"):
        SupportedEngine(Scripted({}, {HISTORY, EXPLAIN})).check(Ask("x", points=[(1, 2)]))


def test_an_explanation_that_the_engine_cannot_give_is_not_asked_for() -> None:
    engine = Scripted({"x": Answer("x")})
    SupportedEngine(engine).ask(FRAME, Ask("x", explain=True))
    assert not engine.asks[0].explain


def test_a_missing_history_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = Scripted({"x": Answer("x")})
    supported, history = SupportedEngine(engine), Conversation()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            supported.ask(FRAME, Ask("x", history=history))
    assert caplog.text.count("scripted keeps no history") == 1
    assert engine.asks[0].history is None
    assert history.turns == []


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[1]],
    ],
)
def test_an_image_of_another_kind_is_refused(rgb: Any) -> None:
    with pytest.raises(ImageError, match="the image is"):
        SupportedEngine(Scripted({})).encode(rgb)


def test_the_engine_gets_its_own_value_back() -> None:
    class Echo(Scripted):
        def encode(self, rgb):
            return "my value"

        def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
            return Answer(encoded)

    engine = SupportedEngine(Echo({}))
    encoded = engine.encode(np.zeros((*SIZE, 3), np.uint8))
    assert encoded.size == SIZE
    assert engine.ask(encoded, Ask("x")).text == "my value"


def test_teacher_forced_answers_are_a_capability() -> None:
    with pytest.raises(CommandError, match="scripted has no teacher-forced answers"):
        SupportedEngine(Scripted({})).teacher_forced(FRAME, [Ask("x")], ["y"])
    engine = Scripted({}, {TEACHER_FORCED})
    engine.teacher_forced = lambda encoded, asks, answers: np.ones(SIZE, bool)
    assert SupportedEngine(engine).teacher_forced(FRAME, [Ask("x")], ["y"]).shape == SIZE


# --- engines that make no sense


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (object(), "object is not an engine: it has no info, encode, ask"),
        (SimpleNamespace(info=EngineInfo("x"), ask=print), "SimpleNamespace is not an engine: it has no encode"),
        (
            SimpleNamespace(info={"name": "x"}, ask=print, encode=print),
            "info is of type dict; it must be",
        ),
        (Scripted({}, {"target"}), "scripted has the unknown capability 'target'; .*points.*targets"),
    ],
)
def test_an_object_that_is_not_an_engine_is_rejected(engine: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SupportedEngine(engine)


def test_a_capability_as_a_text_is_refused() -> None:
    engine = Scripted({})
    engine.info = EngineInfo("x", capabilities="points")
    with pytest.raises(ConfigError, match="the capabilities 'points'; give a frozenset"):
        SupportedEngine(engine)


def test_every_capability_is_accepted() -> None:
    class Forced(Scripted):
        def teacher_forced(self, encoded, asks, answers):
            return np.zeros(SIZE, bool)

    assert SupportedEngine(Forced({}, set(CAPABILITIES))).info.capabilities == CAPABILITIES


def test_a_capability_without_its_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="the capability teacher_forced and no method"):
        SupportedEngine(Scripted({}, {TEACHER_FORCED}))


TOO_WIDE = crop_mask(np.ones((12, 17), bool))
WRONG_CROP = MaskCrop(0, 2, 2, 5, 5, np.zeros((4, 5), np.uint8), 0.0, 3, (0.0, 0.0))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, TypeError, "scripted returned NoneType instead of an Answer"),
        ("a cup", TypeError, "scripted returned str instead of an Answer"),
        (Answer(None), TypeError, "a text of type NoneType; it must be str"),
        (Answer("x", None), TypeError, "gave regions of type NoneType; it must be a sequence"),
        (Answer("x", [np.ones(SIZE, bool)]), TypeError, "a region of type ndarray; it must be a Region"),
        (Answer("x", [Region(np.ones(SIZE, bool))]), TypeError, "a mask of type ndarray; make it with crop_mask"),
        (Answer("x", [Region(WRONG_CROP)]), ValueError, r"a mask of uint8 \(4, 5\) for 5 x 5 pixels at \(2, 2\)"),
        (
            Answer("x", [Region(TOO_WIDE)]),
            ValueError,
            "mask lies at x 0, y 0, 17 x 12 pixels; the image has 16 x 12: resize",
        ),
        (Answer("x", [Region(MASK, 1.5)]), ValueError, r"returned the score 1.5; it must be a number in \[0, 1\]"),
        (Answer("x", [Region(MASK, float("nan"))]), ValueError, "returned the score nan"),
        (Answer("x", [Region(MASK, span=(0, 2))]), ValueError, "outside its text of 1"),
        (Answer("xyz", [Region(MASK, span=(2, 1))]), ValueError, r"they must be \(begin, end\) of the text"),
        (Answer("x", [Region(replace(MASK, pixels=MASK.pixels // 255))]), ValueError, "pixels are not 0 or 255"),
        (Answer("x", [Region(replace(MASK, area=MASK.area + 1))]), ValueError, "whose area"),
        (Answer("x", [Region(MASK, None)]), TypeError, "returned the score None; it must be a number"),
        (Answer("x", [Region(MASK, phrase=None)]), TypeError, "a phrase of type NoneType"),
        (Answer("x", absent=["a", None]), TypeError, "an absent phrase of type NoneType"),
        (Answer("x", timings=3), TypeError, "timings of type int"),
        (Answer("x", absent="cup"), TypeError, "gave absent of type str"),
    ],
)
def test_an_answer_that_makes_no_sense_names_the_engines_fault(answer: Any, error: type, message: str) -> None:
    engine = SupportedEngine(Scripted({"x": answer}))
    with pytest.raises(error, match=message):
        engine.ask(FRAME, Ask("x"))
    with pytest.raises(error, match=message):
        engine.ask(FRAME, Ask(targets=["x"]))


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Token(3), "scripted gave a text of type int; it must be str"),
        ("reading", "scripted sent an event of type str; send Stage, Token or Regions"),
        (Regions([np.ones(SIZE, bool)]), "a region of type ndarray; it must be a Region"),
    ],
)
def test_an_event_that_makes_no_sense_names_the_engines_fault(event: Any, message: str) -> None:
    class Noisy(Scripted):
        def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
            on_event(event)
            return Answer("x")

    for ask in (Ask("x"), Ask(targets=["x"])):
        with pytest.raises(TypeError, match=message):
            SupportedEngine(Noisy({})).ask(FRAME, ask)


def test_a_score_may_be_rounded_and_a_numpy_number() -> None:
    answer = Answer("x", (Region(MASK, np.float32(1.0000001)),))
    assert SupportedEngine(Scripted({"x": answer})).ask(FRAME, Ask("x")) is not None


def test_time_is_measured_where_the_engine_gives_none() -> None:
    timings = SupportedEngine(Scripted(KITCHEN)).ask(FRAME, Ask("cup")).timings
    assert timings.total_s == timings.first_mask_s > 0
    assert SupportedEngine(Scripted(KITCHEN)).ask(FRAME, Ask("saw")).timings.first_mask_s == 0
    own = Timings(total_s=5.0)
    assert SupportedEngine(Scripted({"x": Answer("x", timings=own)})).ask(FRAME, Ask("x")).timings == own


def test_a_numbered_region_carries_label_and_score_in_its_mask() -> None:
    region = numbered(Region(MASK, 0.25, "cup", span=(0, 1)), 7)
    assert (region.mask.label, region.mask.score) == (7, 0.25)
    assert (region.phrase, region.span) == ("cup", (0, 1))


def test_any_sequence_of_regions_is_accepted_and_each_comes_once() -> None:
    region = Region(MASK, np.float32(0.5), "a \ud800 cup")
    array = np.empty(2, object)
    array[:] = [region, region]
    answer = SupportedEngine(Scripted({"x": Answer("x", list(array), absent=iter(["fog"]))})).ask(FRAME, Ask("x"))
    assert [one.phrase for one in answer.regions] == ["a ? cup"]
    assert isinstance(answer.regions[0].score, float)
    assert answer.absent == ("fog",)


def test_a_generator_of_regions_in_an_event_arrives_whole() -> None:
    class Noisy(Scripted):
        def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
            on_event(Regions(region for region in regions))
            return Answer("x", regions)

    regions, events = [Region(MASK, 0.5), Region(MASK, 0.6)], []
    answer = SupportedEngine(Noisy({})).ask(FRAME, Ask("x"), events.append)
    assert events[0].regions == answer.regions


def test_more_regions_than_labels_are_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    many = [Region(crop_mask(np.ones((2, 2), bool))) for _ in range(300)]
    assert len(SupportedEngine(Scripted({"x": Answer("x", many)})).ask(FRAME, Ask("x")).regions) == 255
    assert "300 regions; the first 255 are used" in caplog.text


def test_an_engine_may_take_its_options_by_keyword_only() -> None:
    class Keyworded(Scripted):
        def ask(self, encoded, ask, *, details=False, should_stop=None, on_event=None):
            return super().ask(encoded, ask, on_event, should_stop, details)

    assert SupportedEngine(Keyworded({"x": Answer("x")})).ask(FRAME, Ask("x")).text == "x"


def test_numpy_values_make_a_question() -> None:
    engine = Scripted({"cup": Answer("x")}, {POINTS})
    points, box = np.array([[1, 2], [3, 4]]), np.array([1, 2, 3, 4])
    SupportedEngine(engine).ask(FRAME, Ask(targets=np.array(["cup"]), points=points, box=box))
    assert engine.asks[0].text == "cup"
    assert engine.asks[0].points == ((1, 2), (3, 4))
    assert engine.asks[0].box == (1, 2, 3, 4)


@pytest.mark.parametrize("number", [0, -1, 2.5, "many", True])
def test_a_token_limit_is_a_whole_number_from_1(number: Any) -> None:
    with pytest.raises(CommandError, match="max_new_tokens is"):
        SupportedEngine(Scripted({})).ask(FRAME, Ask("x", max_new_tokens=number))


def test_points_that_are_no_pairs_of_numbers_are_named() -> None:
    with pytest.raises(CommandError, match="points are"):
        SupportedEngine(Scripted({}, {POINTS})).ask(FRAME, Ask("x", points=["ab"]))


def test_a_mask_of_numbers_covers_what_is_above_0() -> None:
    bytes_mask = np.zeros(SIZE, np.uint8)
    bytes_mask[2:4, 3:6] = 255
    crop = crop_mask(bytes_mask)
    assert (crop.area, crop.pixels.min(), crop.pixels.max()) == (6, 255, 255)
    with pytest.raises(ValueError, match="must be"):
        crop_mask(np.zeros((*SIZE, 3), bool))


def test_a_conversation_of_no_turns_keeps_none() -> None:
    conversation = Conversation(max_turns=0)
    conversation.append(Turn("a", "b"))
    assert conversation.turns == []
