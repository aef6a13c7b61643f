"""Which target each mask of an answer belongs to, whatever the model writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisa_ros.engine.api import Region, crop_mask
from lisa_ros.lisa.family import FAMILIES
from lisa_ros.lisa.mentions import Mention, closest, found, name_before
from lisa_ros.runtime.status import EMPTY_MASK, NOTHING_FOUND, message_of

GSVA, LASAGNA, LISA = FAMILIES["gsva"], FAMILIES["lasagna"], FAMILIES["lisa"]


def region(column: int = 0, area: bool = True, name: str = "") -> Region:
    mask = np.zeros((4, 8), bool)
    mask[1, column] = area
    return Region(crop_mask(mask), 0.5, name, span=(column, column + 1))


def marked(name: str, column: int = 0, area: bool = True) -> Mention:
    return Mention(name, region=region(column, area, name))


def rejected(name: str) -> Mention:
    return Mention(name, rejected=True)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("The segmentation results are silver spoon", "silver spoon"),
        ("Sure, they are coffee cup:", "coffee cup"),
        (", the mask of cup and saucer is", "cup and saucer"),
        (", the referred cup", "the referred cup"),
        ("Sure, the referred the cup is", "the cup"),
        ("Sure,red bicycle:", "red bicycle"),
        ("It is", ""),
        ("Sure, the segmentation result is", ""),
        ("", ""),
        (", the", "the"),
        ("surefooted goat", "surefooted goat"),
    ],
)
def test_the_sentence_around_a_name_is_removed(text: str, name: str) -> None:
    assert name_before(text, GSVA) == name


def test_a_family_that_names_nothing_has_no_names() -> None:
    assert name_before("Sure, the cup is", LISA) == ""


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("trafficlight", "traffic light"),
        ("Cup", "cup"),
        ("cups", "cup"),
        ("horse", None),
        ("", None),
        ("a cup.", "cup"),
        ("mug", None),
    ],
)
def test_a_name_means_the_target_that_is_spelled_alike(name: str, target: str | None) -> None:
    assert closest(name, ["cup", "traffic light", "house"]) == target


def test_an_answer_that_reorders_names_is_matched_by_name() -> None:
    answer = found([marked("knife", 1), rejected("bowl"), marked("cup", 2)], ["cup", "knife", "bowl"], GSVA)
    assert [(one.phrase, one.mask.x) for one in answer.regions] == [("knife", 1), ("cup", 2)]
    assert answer.absent == ("bowl",)


def test_a_name_that_fits_no_target_is_matched_by_order_where_the_family_keeps_it() -> None:
    mentions = [marked("mug", 1), rejected("it")]
    assert found(mentions, ["cup", "knife"], GSVA).regions[0].phrase == "cup"
    assert found(mentions, ["cup", "knife"], GSVA).absent == ("knife",)
    assert found(mentions, ["cup", "knife"], LASAGNA).regions[0].phrase == "mug"
    assert found(mentions, ["cup", "knife"], LASAGNA).absent == ()


def test_an_exact_name_is_not_given_to_another_target() -> None:
    answer = found([marked("knife", 1), rejected("mug")], ["cup", "knife"], GSVA)
    assert [one.phrase for one in answer.regions] == ["knife"] and answer.absent == ("cup",)
    answer = found([rejected("black cup"), marked("black cap", 1)], ["black cup", "saw"], LASAGNA)
    assert [one.phrase for one in answer.regions] == ["black cap"] and answer.absent == ("black cup",)
    assert closest("person 13", ["person 11"]) is None


def test_masks_without_a_name_are_objects_of_their_own() -> None:
    answer = found([marked("", 1), marked("", 3)], ["cup"], LASAGNA)
    assert [(one.phrase, one.mask.area) for one in answer.regions] == [("", 1), ("", 1)]
    (one,) = found([marked("", 1)], ["cup"], LISA).regions
    assert one.phrase == "cup"


def test_an_invented_name_keeps_its_mask_and_a_target_is_left_unanswered() -> None:
    answer = found([marked("zebra", 3), marked("cup", 1), rejected("dog")], ["cup", "knife"], GSVA)
    assert [one.phrase for one in answer.regions] == ["zebra", "cup"]
    assert answer.absent == ()


def test_masks_of_a_target_that_is_named_or_given_twice_are_united() -> None:
    for targets in (["cup", "knife"], ["cup", "knife", "cup"], ["Cup", "knife", "cup"]):
        answer = found([marked("cup", 1), rejected("knife"), marked("cup", 5)], targets, GSVA)
        (one,) = answer.regions
        assert (one.mask.x, one.mask.width, one.mask.area, one.phrase) == (1, 5, 2, targets[0])
        assert one.spans == ((1, 2), (5, 6))
        assert answer.absent == ("knife",)


def test_a_target_that_is_marked_and_rejected_is_found() -> None:
    answer = found([rejected("cup"), marked("cup", 1)], ["cup", "knife"], LASAGNA)
    assert len(answer.regions) == 1 and answer.absent == ()


def test_a_target_with_an_empty_mask_is_absent() -> None:
    answer = found([marked("cup", area=False), marked("knife", 1)], ["cup", "knife"], GSVA)
    assert answer.absent == ("cup",)


def test_a_region_that_is_right_keeps_its_identity() -> None:
    """The node has sent it already."""
    mention = marked("cup", 1)
    assert found([mention], ["cup"], GSVA).regions[0] is mention.region
    assert found([mention], [], GSVA).regions[0] is mention.region


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
mention = st.one_of(st.builds(rejected, words), st.builds(marked, words, st.integers(0, 7)))
mentions_of = st.lists(mention, max_size=12)


@given(mentions_of, st.lists(words.filter(str.strip), max_size=6), st.sampled_from(sorted(FAMILIES)))
def test_any_answer_has_a_defined_result(mentions: list[Mention], targets: list[str], family: str) -> None:
    answer = found(mentions, targets, FAMILIES[family])
    phrases = [one.phrase for one in answer.regions]
    pixels = {one.region.mask.x for one in mentions if one.region is not None}
    columns = {x for one in answer.regions for x in one.mask.x + np.flatnonzero(one.mask.pixels.any(axis=0))}
    assert columns == pixels  # no mask is lost
    if targets:
        named = list(filter(None, phrases))
        assert len(set(named)) == len(named)
        assert set(answer.absent) <= set(targets) and not set(answer.absent) & set(phrases)


@given(words, st.sampled_from(sorted(FAMILIES)))
def test_any_text_has_a_name_without_outer_marks(text: str, family: str) -> None:
    name = name_before(text, FAMILIES[family])
    assert name == name.strip(" ,.;:\n") and len(name) <= len(text)


def test_a_message_names_what_is_missing() -> None:
    assert message_of([region(1, name="cup")], ["knife"], ["cup", "knife"]) == ""
    assert message_of([region(1, name="cup")], [], ["cup", "knife"]).startswith("the answer does not mention knife;")
    assert message_of([], [], []) == NOTHING_FOUND
    assert message_of([region(area=False)], [], []) == EMPTY_MASK
