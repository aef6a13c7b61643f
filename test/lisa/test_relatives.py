"""LISA's relatives give the numbers of their references, and a defined answer to everything else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import GOLDEN, iou, read_rgb, thinned, unpacked_masks
from hypothesis import given
from hypothesis import strategies as st
from relatives import NAMES, Case, checkpoint, load_relative, read_cases

from benchmarks.fixed_answer import FixedAnswer
from lisa_ros import load_engine
from lisa_ros.engine.api import Answer, Ask, Conversation, Event, Regions, Turn
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CheckpointError, CommandError, ConfigError
from lisa_ros.lisa.family import FAMILIES, PointSettings, family_of
from lisa_ros.lisa.grounding import SegGrounding
from lisa_ros.lisa.model.points import similarity_points
from lisa_ros.lisa.partial_answer import PartialAnswer, Step
from lisa_ros.lisa.prompt import build_prompt, template
from lisa_ros.lisa.tokenizer import IMAGE_ID, Tokenizer
from lisa_ros.lisa.weights.spec import read_spec, resolve_tower

EngineOf = Callable[..., SupportedEngine]

# Of mask logits. SESAME's own rounding is 3e-4 away from the same network in float64.
TOLERANCE = {"sesame": 1e-3, "read": 1e-3, "lasagna": 2e-4, "gsva": 2e-4, "cores": 2e-4}

every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case)) for name in NAMES for case in read_cases(name)]
)


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> EngineOf:
    """The engine of a golden's folder; the last one is held."""

    @lru_cache(maxsize=1)
    def load(folder: Path) -> SupportedEngine:
        return load_relative(folder, tmp_path_factory.mktemp("relative"))

    return load


def answer_about(engine: SupportedEngine, name: str, picture: str, ask: Ask, **options: Any) -> Answer:
    return engine.ask(engine.encode(read_rgb(GOLDEN / name / picture)), ask, **options)


def unexpanded(engine: Any, ask: Ask) -> list[int]:
    """Ids of the prompt with one placeholder for the image."""
    ids, _ = engine._prompt_ids(engine._question(ask, follow_up=False), None, 512)
    at, count = ids.index(IMAGE_ID), engine.lisa.vision_tower.num_tokens
    return ids[: at + 1] + ids[at + count :]


@every_case
def test_prompt_answer_and_masks_equal_the_references(case: Case, engine_of: EngineOf) -> None:
    engine = engine_of(case.folder)
    assert engine.engine.family.name == case.name
    answer = engine.ask(engine.encode(case.rgb), case.ask, details=True)
    details = answer.details or {}
    assert unexpanded(engine.engine, case.ask) == case.facts["input_ids"]
    assert details["answer_ids"] == case.facts["generated_ids"]
    arrays = case.arrays
    if "low_res_masks" in arrays:
        expected = arrays["low_res_masks"]
        assert len(details["low_res_logits"]) == len(expected)
        if expected.size:
            ours = thinned(details["low_res_logits"], expected)
            np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE[case.name])
    if "coarse_low_res" in arrays:
        expected = arrays["coarse_low_res"]
        np.testing.assert_allclose(thinned(details["coarse_low_res_logits"], expected), expected, rtol=0, atol=2e-4)
    if "masks_bits" in arrays:
        for ours, theirs in zip(details["mask_logits"] > 0, unpacked_masks(arrays), strict=True):
            assert iou(ours, theirs) > 0.999 if theirs.any() else not ours.any()


# --- a family is data ---


def test_config_json_chooses_the_family_and_our_own_key_comes_first() -> None:
    for family in FAMILIES.values():
        assert family_of({"architectures": [family.architecture]}) is family
        assert family_of({"architectures": ["Other"], "lisa": {"family": family.name}}) is family
    assert family_of({}).name == "lisa"


def edited(source: Path, target: Path, **changes: Any) -> Path:
    """A copy of a checkpoint's folder with another config.json."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text("utf-8")) | changes
    (target / "config.json").write_text(json.dumps(config), "utf-8")
    return target


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mm_projector_type": "resampler"}, "'resampler'"),
        ({"lisa": {"family": "lasagne"}}, "'lasagne'"),
        ({"lisa": {"added_tokens": "drop"}}, "'drop'"),
        ({"lisa": {"points": {"num_points": 0}}}, "num_points of the points is 0"),
        ({"lisa": {"points": {"count": 3}}}, "'count'"),
        ({"lisa": {"questions": {"lower": "yes"}}}, "'yes'"),
    ],
)
def test_an_unknown_value_in_config_json_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = edited(GOLDEN / "ckpt", tmp_path / "ckpt", **changes)
    with pytest.raises(CheckpointError, match=re.escape(named)):
        read_spec(folder)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"family": "gres"}, "'gres'"),
        ({"family": 3}, "3"),
        ({"points": {"t_pos": 2}}, "t_pos of the points is 2"),
        ({"points": {"t_pos": 0.1}}, "t_neg of the points is 0.2"),
        ({"points": 30}, "points is 30"),
        ({"coarse_regions": "yes"}, "'yes'"),
        ({"vision_tower": 3}, "3"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        load_engine(GOLDEN / "ckpt", device="cpu", options=options)


@pytest.mark.parametrize(("family", "token"), [("gsva", "[REJ]"), ("lasagna", "<ins>"), ("cores", "[SEG_SEMA]")])
def test_a_family_forced_on_a_checkpoint_of_another_names_the_missing_token(family: str, token: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{token}, which the family '{family}' needs")):
        load_engine(GOLDEN / "ckpt", device="cpu", options={"family": family})


def test_a_family_with_the_same_tokens_may_be_forced() -> None:
    engine: Any = load_engine(GOLDEN / "ckpt", device="cpu", options={"family": "sesame"}).engine
    assert engine.template == template("v1")
    question = engine._question(Ask("the Red Cup"), follow_up=False).question
    assert question.startswith("Can you find the red cup in this image? If present,")


def test_a_tower_named_by_a_path_of_another_machine_is_found_by_its_last_part(tmp_path: Path) -> None:
    folder = edited(GOLDEN / "sesame" / "ckpt", tmp_path / "ckpt", mm_vision_tower="../dataset/somewhere/clip-tiny")
    shutil.copytree(GOLDEN / "sesame" / "clip-tiny", tmp_path / "clip-tiny")
    assert resolve_tower(None, read_spec(folder), folder) == tmp_path / "clip-tiny"


@pytest.mark.parametrize("name", ["open", "answered", "second_open"])
@pytest.mark.parametrize(("ours", "theirs"), [("cores_v1", "llava_v1"), ("cores_llama_2", "llava_llama_2")])
def test_the_templates_of_cores_are_the_references(ours: str, theirs: str, name: str) -> None:
    recorded = json.loads((GOLDEN / "cores" / "prompts.json").read_text("utf-8"))[theirs]
    first = Turn("What is the cup in this image? Please output segmentation mask.")
    answered = replace(first, answer="It usually appears on [SEG_SEMA]. It is [SEG].")
    forms = {"open": [first], "answered": [answered], "second_open": [answered, Turn("And the spoon?")]}
    assert build_prompt(forms[name], template(ours), im_start_end=False).text == recorded[name]


# --- SESAME and READ ---


def test_a_denial_in_words_has_no_region(engine_of: EngineOf) -> None:
    case = next(case for case in read_cases("sesame") if case.facts["id"] == "coffee_1")
    answer = answer_about(engine_of(case.folder), "sesame", "coffee.png", case.ask)
    assert answer.text == "There is no elephant here, but I can see a cup."
    assert not answer.found and not answer.regions


def test_a_claim_with_an_empty_mask_is_not_found(engine_of: EngineOf) -> None:
    case = next(case for case in read_cases("sesame") if case.facts["id"] == "coffee_3")
    answer = answer_about(engine_of(case.folder), "sesame", "coffee.png", case.ask)
    assert not answer.found and [region.mask.area for region in answer.regions] == [0]


def points_of_read() -> list[Any]:
    content = json.loads((GOLDEN / "read" / "points.json").read_text("utf-8"))
    return [pytest.param(number, tuple(size), id=f"{size}") for number, size in enumerate(content["sizes"])]


@pytest.mark.parametrize(("number", "size"), points_of_read())
def test_similarity_points_equal_the_references(number: int, size: tuple[int, int]) -> None:
    arrays = np.load(GOLDEN / "read" / "points.npz")
    similarity = torch.from_numpy(arrays[f"similarity_{number}"]).flatten()
    points, labels = similarity_points(similarity, size, PointSettings())
    np.testing.assert_allclose(points.numpy(), arrays[f"points_{number}"], rtol=0, atol=0.01)
    assert labels.tolist() == arrays[f"labels_{number}"].tolist()


def test_a_constant_similarity_has_no_points() -> None:
    points, labels = similarity_points(torch.ones(16), (40, 60), PointSettings(num_points=3))
    assert points.isfinite().all() and set(labels.tolist()) == {-1}


def test_settings_of_the_13b_come_with_its_width() -> None:
    assert FAMILIES["read"].points_for(5120) == PointSettings(60, 0.6, 0.2, 1)
    assert FAMILIES["read"].points_for(4096) == PointSettings() == FAMILIES["read"].points_for(24)
    assert FAMILIES["sesame"].points_for(4096) is None


def test_a_second_command_about_a_frame_reads_no_image_token(engine_of: EngineOf, monkeypatch: Any) -> None:
    case = next(read_cases("read"))
    engine = engine_of(case.folder)
    frame = engine.encode(case.rgb)
    first = engine.ask(frame, case.ask, details=True)
    read: list[list[int]] = []
    embed = engine.engine.grounding.embed
    monkeypatch.setattr(
        engine.engine.grounding, "embed", lambda ids, tokens: read.append(ids[0].tolist()) or embed(ids, tokens)
    )
    again = engine.ask(frame, case.ask, details=True)
    assert all(IMAGE_ID not in ids for ids in read)
    for one, other in zip(first.regions, again.regions, strict=True):
        np.testing.assert_array_equal(one.mask.pixels, other.mask.pixels)


def test_points_serve_several_masks_of_one_answer(engine_of: EngineOf, tmp_path: Path) -> None:
    """SESAME's network with READ's points: the reference takes them for one mask only."""
    engine = load_relative(GOLDEN / "sesame", tmp_path, points={"num_points": 8})
    plain = engine_of(GOLDEN / "sesame")
    case = next(case for case in read_cases("sesame") if case.facts["id"] == "coffee_2")
    with_points = answer_about(engine, "sesame", "coffee.png", case.ask, details=True)
    without = answer_about(plain, "sesame", "coffee.png", case.ask, details=True)
    assert with_points.text == without.text and len(with_points.regions) == 2
    assert np.abs(with_points.details["mask_logits"] - without.details["mask_logits"]).max() > 1e-3


def test_one_option_of_the_points_leaves_the_others_as_they_are() -> None:
    known = PointSettings(60, 0.6, 0.2, 1)
    assert PointSettings.read({"num_points": 40}, known) == PointSettings(40, 0.6, 0.2, 1)
    with pytest.raises(ValueError, match="points is 0"):
        PointSettings.read(0)


@given(
    st.sampled_from([4, 16, 25, 576]),
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    st.builds(PointSettings, st.integers(1, 60), st.just(0.8), st.just(0.2), st.integers(1, 30)),
)
def test_points_of_any_picture_lie_inside_it(tokens: int, size: tuple[int, int], settings: PointSettings) -> None:
    similarity = torch.randn(tokens, generator=torch.Generator().manual_seed(tokens))
    points, labels = similarity_points(similarity, size, settings)
    assert len(points) == len(labels) <= settings.num_points
    assert points.isfinite().all() and (points >= 0).all() and (points <= torch.tensor([size[1], size[0]])).all()


# --- LaSagnA: a list of classes ---


CLASSES = ("cup", "horse", "table", "spoon")


def test_each_class_has_a_mask_or_is_absent(engine_of: EngineOf) -> None:
    engine = engine_of(GOLDEN / "lasagna")
    answer = answer_about(engine, "lasagna", "coffee.png", Ask(targets=CLASSES))
    assert answer.text == "cup <ins> table <ins> horse <no_ins> spoon <ins>"
    assert [region.phrase for region in answer.regions] == ["cup", "table", "spoon"]
    assert answer.absent == ("horse",)
    assert [answer.text[slice(*region.span)] for region in answer.regions] == ["<ins>"] * 3


def test_a_class_keeps_the_spelling_of_the_command(engine_of: EngineOf) -> None:
    engine = engine_of(GOLDEN / "lasagna")
    answer = answer_about(engine, "lasagna", "coffee.png", Ask(targets=[name.upper() for name in CLASSES]))
    assert {region.phrase for region in answer.regions} <= {"CUP", "TABLE", "SPOON", "HORSE"}
    assert unexpanded(engine.engine, Ask(targets=["CUP"])) == unexpanded(engine.engine, Ask(targets=["cup"]))


def test_a_class_given_twice_is_in_the_prompt_twice_and_in_the_result_once(engine_of: EngineOf) -> None:
    engine = engine_of(GOLDEN / "lasagna")
    twice = Ask(targets=["cup", "horse", "table", "cup"])
    answer = answer_about(engine, "lasagna", "coffee.png", twice, details=True)
    assert engine.engine._question(twice, follow_up=False).question.endswith(" cup, horse, table, cup <cat_end>")
    phrases = [region.phrase for region in answer.regions]
    assert len(set(phrases)) == len(phrases)
    assert len(answer.details["mask_logits"]) == answer.details["answer_ids"].count(engine.engine.grounding._mask_id)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["cup, plate"], "has a comma"),
        ([""], "must be a name"),
        (["cup"] * 500, "500 targets"),
        ([], "the command is empty"),
        (["..."], "has no words"),
        (["cup\ud800"], "invalid character"),
    ],
)
@pytest.mark.parametrize("name", ["lasagna", "gsva"])
def test_targets_that_cannot_be_used_are_named(
    name: str, targets: list[str], message: str, engine_of: EngineOf
) -> None:
    engine = engine_of(GOLDEN / name)
    with pytest.raises(CommandError, match=message):
        answer_about(engine, name, "coffee.png", Ask(targets=targets))


def test_special_tokens_in_a_class_are_literal_text(engine_of: EngineOf) -> None:
    engine: Any = engine_of(GOLDEN / "lasagna").engine
    ids = unexpanded(engine, Ask(targets=["<ins> cup <cat_end>"]))
    tokenizer = engine.tokenizer
    assert ids.count(tokenizer.id_of("<ins>")) == 0 and ids.count(tokenizer.id_of("<cat_end>")) == 1


def test_a_command_in_the_form_of_a_list_is_literal_text(engine_of: EngineOf) -> None:
    engine: Any = engine_of(GOLDEN / "lasagna").engine
    text = FAMILIES["lasagna"].questions.several.format("cup")
    assert engine.tokenizer.id_of("<semantic>") not in unexpanded(engine, Ask(text, verbatim=True))


def with_answer(engine: SupportedEngine, text: str, monkeypatch: pytest.MonkeyPatch) -> FixedAnswer:
    """Lets the model write ``text``."""
    ours: Any = engine.engine
    grounding = FixedAnswer(ours.lisa, ours.tokenizer.id_of(ours.family.mask_token))
    grounding.answer = [*ours.tokenizer.encode(text), ours.tokenizer.eos_id]
    monkeypatch.setattr(ours, "grounding", grounding)
    return grounding


def test_150_classes_of_one_command_have_masks_or_are_absent(
    engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(GOLDEN / "lasagna")
    classes = [f"thing {number}" for number in range(150)]
    text = "".join(f"{name}<{'no_' if number % 3 == 0 else ''}ins>" for number, name in enumerate(classes))
    with_answer(engine, text, monkeypatch)
    events: list[Event] = []
    answer = answer_about(engine, "lasagna", "coffee.png", Ask(targets=classes), details=True, on_event=events.append)
    present = [name for number, name in enumerate(classes) if number % 3]
    assert [region.phrase for region in answer.regions] == present
    empty = {region.phrase for region in answer.regions if not region.mask.area}
    assert list(answer.absent) == [name for name in classes if name in empty or name not in present]
    assert answer.details["mask_logits"].shape[0] == answer.details["low_res_logits"].shape[0] == 100
    assert sum(len(event.regions) for event in events if isinstance(event, Regions)) == 100


def test_wrong_drafts_about_targets_cost_few_positions(engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target is rejected, which no draft proposes."""
    engine = engine_of(GOLDEN / "gsva")
    names = [f"thing {number}" for number in range(20)]
    text = "Sure, they are " + ", ".join(f"{name}:[REJ]" for name in names) + "."
    grounding = with_answer(engine, text, monkeypatch)
    frame = engine.encode(read_rgb(GOLDEN / "gsva" / "coffee.png"))
    answer = engine.ask(frame, Ask(targets=names), details=True)
    assert list(answer.absent) == names
    prompt = len(unexpanded(engine.engine, Ask(targets=names))) + engine.engine.lisa.vision_tower.num_tokens
    assert grounding.positions < prompt + 2 * len(answer.details["answer_ids"])


def test_a_list_of_classes_is_read_again_in_a_session(engine_of: EngineOf) -> None:
    engine = engine_of(GOLDEN / "lasagna")
    history = Conversation()
    answer_about(engine, "lasagna", "coffee.png", Ask(targets=CLASSES, history=history))
    prompt = engine.engine._prompt([*history.turns, Turn("x")])
    ids = engine.engine.tokenizer.encode_prompt(prompt.text, prompt.literal)
    for token, count in (("<semantic>", 1), ("<ins>", 3), ("<no_ins>", 1)):
        assert ids.count(engine.engine.tokenizer.id_of(token)) == count


# --- GSVA: several targets ---


def test_each_target_has_a_mask_or_is_rejected(engine_of: EngineOf) -> None:
    answer = answer_about(engine_of(GOLDEN / "gsva"), "gsva", "coffee.png", Ask(targets=["coffee cup", "red bicycle"]))
    assert answer.text == "Sure, they are coffee cup: [SEG], red bicycle: [REJ]."
    assert [region.phrase for region in answer.regions] == ["coffee cup"]
    assert answer.absent == ("red bicycle",)


def test_names_come_from_the_answer_where_no_targets_are_given(engine_of: EngineOf) -> None:
    case = next(case for case in read_cases("gsva") if case.facts["id"] == "free_coffee_1")
    answer = answer_about(engine_of(GOLDEN / "gsva"), "gsva", "coffee.png", case.ask)
    assert [region.phrase for region in answer.regions] == ["silver spoon", "coffee cup"]
    assert answer.absent == ("black dog",)


def test_drafts_do_not_change_an_answer_about_targets(engine_of: EngineOf) -> None:
    engine = engine_of(GOLDEN / "gsva")
    frame = engine.engine.encode(read_rgb(GOLDEN / "gsva" / "coffee.png"))
    ask = Ask(targets=["silver spoon", "coffee cup", "black dog"])
    drafted, plain = (engine.engine.ask(frame, ask, details=True, draft=draft) for draft in (True, False))
    assert drafted.details["answer_ids"] == plain.details["answer_ids"]


def test_blanks_beside_tokens_are_kept_or_removed_by_the_checkpoints_rule() -> None:
    folder = GOLDEN / "gsva" / "ckpt"
    keep, strip = (Tokenizer.from_folder(folder, strips_blanks=strips) for strips in (False, True))
    text = "spoon [SEG], cup:[SEG]"
    assert len(keep.encode(text)) == len(strip.encode(text)) + 1
    assert keep.answer_text(keep.encode(text)) == strip.answer_text(strip.encode(text))


def test_a_session_reads_the_ids_that_the_model_wrote(engine_of: EngineOf) -> None:
    engine = engine_of(GOLDEN / "gsva")
    for case in (case for case in read_cases("gsva") if not case.full):
        history = Conversation()
        answer = engine.ask(engine.encode(case.rgb), replace(case.ask, history=history), details=True)
        prompt = engine.engine._prompt(history.turns)
        ids = engine.engine.tokenizer.encode_prompt(prompt.text, prompt.literal)
        written = answer.details["answer_ids"]
        assert ids[-len(written) :] == written


# --- CoReS: a coarse mask first ---


def test_a_mask_takes_the_nearest_unused_coarse_token_before_it() -> None:
    grounding = SegGrounding(None, mask_id=1, coarse_id=2)
    assert grounding.coarse_of([0, 2, 0, 1, 2, 0, 1]) == [0, 3]
    assert grounding.coarse_of([0, 1, 2, 2, 1, 1, 1]) == [None, 2, 1, None]
    assert grounding.coarse_of([2, 2]) == []


def test_a_mask_without_a_coarse_one_is_decoded_in_one_pass(tmp_path: Path) -> None:
    """CoReS' answer of [SEG] alone: the same mask as LISA's grounding gives on these weights."""
    engine = load_relative(GOLDEN / "cores", tmp_path)
    cores: Any = engine.engine
    frame = cores.encode(read_rgb(GOLDEN / "cores" / "coffee.png"))
    cores.ensure_embedding(frame)
    hidden = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain = SegGrounding(cores.lisa, 0).masks(hidden, frame.features)
        coarse = cores.grounding.coarse_masks(hidden[:1], frame.features)[0]
        mixed = cores.grounding.masks(hidden, frame.features, [None, coarse])
        both = cores.grounding.masks(hidden[1:], frame.features, [coarse])
    torch.testing.assert_close(mixed[0], plain[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(mixed[1], both[0], rtol=0, atol=1e-4)
    assert (mixed[1] - plain[1]).abs().max() > 0.1


def test_a_mask_before_its_coarse_token_is_decoded_alone_while_the_answer_grows() -> None:
    grounding = SegGrounding(None, mask_id=1, coarse_id=2)
    tokenizer = Tokenizer.from_folder(GOLDEN / "cores" / "ckpt")
    answer = PartialAnswer(tokenizer, FAMILIES["cores"], grounding, (), 32, False)
    states = [torch.full((4,), float(number)) for number in range(6)]
    marks = []
    for token, state in zip([1, 2, 2, 1, 1, 1], states, strict=True):
        marks += answer.add([Step(token, state, torch.zeros(8))])
    assert [None if mark.coarse is None else mark.coarse.hidden[0].item() for mark in marks] == [None, 2, 1, None]


def test_points_beside_coarse_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match="take no points"):
        load_engine(GOLDEN / "cores" / "ckpt", device="cpu", options={"points": {"num_points": 3}})


def test_coarse_masks_are_early_regions_on_request_and_not_in_the_answer(tmp_path: Path) -> None:
    engine = load_relative(GOLDEN / "cores", tmp_path, coarse_regions=True)
    case = next(read_cases("cores"))
    events: list[Event] = []
    answer = answer_about(engine, "cores", "coffee.png", case.ask, on_event=events.append)
    sent = [region.phrase for event in events if isinstance(event, Regions) for region in event.regions]
    assert sent == ["coarse", ""]
    assert [region.phrase for region in answer.regions] == [""]


def test_given_answers_are_scored_with_their_coarse_masks(engine_of: EngineOf) -> None:
    """The true answer gives the mask that the model drew when it wrote the same answer."""
    engine = engine_of(GOLDEN / "cores")
    case = next(read_cases("cores"))
    frame = engine.encode(case.rgb)
    answer = engine.ask(frame, case.ask, details=True)
    forced = engine.teacher_forced(frame, [case.ask], ["It usually appears on [SEG_SEMA]. It is [SEG]."])
    assert iou(forced, answer.details["mask_logits"][0] > 0) > 0.999


def test_a_checkpoint_without_a_table_of_its_family_is_an_error(tmp_path: Path) -> None:
    folder = checkpoint(GOLDEN / "cores", tmp_path)
    broken = edited(folder, tmp_path / "broken", lisa={"family": "lasagna"})
    with pytest.raises(CheckpointError, match="<ins>"):
        load_engine(broken, device="cpu", options={"vision_tower": str(GOLDEN / "cores" / "clip-tiny")})
