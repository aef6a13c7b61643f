"""The demo model as an extractive engine: untrained, with proposals from elsewhere, and trained for a few steps."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from goldens import read_rgb

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Conversation, Event, Proposals, Regions, Token
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CheckpointError, CommandError, ConfigError
from lisa_ros.extractive.mentions import messages_of
from lisa_small.extractor import WEIGHTS
from lisa_small.network.pointer import Pointer
from lisa_small.training.dialogue import Suffix
from lisa_small.training.extract import with_mentions

DEMO = Path(__file__).resolve().parents[2] / "demo"
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return read_rgb(DEMO / "scene.jpg")


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.asarray(cv2.imread(str(DEMO / "scene_ids.png"), cv2.IMREAD_UNCHANGED))


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((DEMO / "scene.json").read_text("utf-8"))
    return record


@pytest.fixture(scope="module")
def engine() -> SupportedEngine:
    return load_engine(device="cpu", precision="fp32", options={"family": "elisa_small"})


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def union(regions: Any, size: tuple[int, ...]) -> np.ndarray:
    whole = np.zeros(size, bool)
    for region in regions:
        crop = region.mask
        whole[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] |= crop.pixels > 0
    return whole


def things(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Objects of the only one of their class."""
    classes = [one["class"] for one in record["objects"]]
    return [one for one in record["objects"] if classes.count(one["class"]) == 1]


def test_the_demo_model_names_its_own_proposals(
    engine: SupportedEngine, rgb: np.ndarray, ids: np.ndarray, record: dict[str, Any]
) -> None:
    encoded = engine.encode(rgb)
    scores = []
    for thing in things(record):
        answer = engine.ask(encoded, Ask(f"the {thing['class']}"))
        assert "[SEG]" not in answer.text
        scores.append(iou(union(answer.regions, ids.shape), ids == thing["id"]))
        for number, region in enumerate(answer.regions, 1):
            assert answer.text[slice(*region.span)] == f"[{number}]"
            assert 0 <= region.score <= 1
    assert np.median(scores) > 0.8


def test_proposals_are_made_once_a_frame_and_stay(
    engine: SupportedEngine, rgb: np.ndarray, record: dict[str, Any]
) -> None:
    encoded = engine.encode(rgb)
    assert encoded.value.own is None
    engine.ask(encoded, Ask("the cup"))
    first = encoded.value.own
    engine.ask(encoded, Ask("the knife"))
    assert first is not None
    assert encoded.value.own is first


def test_masks_of_any_detector_can_be_named(
    engine: SupportedEngine, rgb: np.ndarray, ids: np.ndarray, record: dict[str, Any]
) -> None:
    """True masks from outside, without embeddings: what is named is exactly one of them."""
    masks = np.stack([ids == one["id"] for one in record["objects"]])
    encoded = engine.encode(rgb)
    right = 0
    for thing in things(record):
        ask = Ask(f"the {thing['class']}", proposals=Proposals(masks=masks))
        answer = engine.ask(encoded, ask, details=True)
        assert answer.details is not None
        for region, index in zip(answer.regions, answer.details["proposal_ids"], strict=True):
            assert region.mask.area == masks[index].sum()
        right += [record["objects"][i]["id"] for i in answer.details["proposal_ids"]] == [thing["id"]]
    assert right >= 0.7 * len(things(record))


def test_without_any_proposal_there_is_an_answer_without_a_mask(engine: SupportedEngine, rgb: np.ndarray) -> None:
    none = Proposals(masks=np.zeros((0, *rgb.shape[:2]), bool))
    answer = engine.ask(engine.encode(rgb), Ask("the cup", proposals=none, max_new_tokens=16))
    assert (list(answer.regions), "[" in answer.text) == ([], False)


def test_another_proposer_serves_it(rgb: np.ndarray) -> None:
    """The model's own SAM, on a grid of few points: its masks have no names and no embeddings."""
    settings = {"points": 4, "iou": 0.0, "stability": 0.0, "nms": 1.0}
    options = {"family": "elisa_small", "proposer": "sam", "proposer_options": settings, "limit": 5}
    engine = load_engine(device="cpu", precision="fp32", options=options)
    encoded = engine.encode(rgb)
    answer = engine.ask(encoded, Ask("the cup"), details=True)
    proposals = engine.proposals(encoded)
    assert (len(proposals), proposals.embeddings) == (5, None)
    assert answer.details is not None
    areas = [proposals.crops[index].area for index in answer.details["proposal_ids"]]
    assert areas == [region.mask.area for region in answer.regions]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proposer": "sma"}, "there is no proposer 'sma'"),
        ({"proposer_options": {"size": 3}}, "'drawn' has no option 'size'"),
        ({"choice": "both"}, "engine 'elisa_small' has no option 'choice'"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine(device="cpu", options={"family": "elisa_small", **options})


@pytest.mark.parametrize("text", ["the cup <SEG_MASK_3>", "the cup [2]", "the cup [SEG]"])
def test_mask_words_that_a_person_types_are_text(engine: SupportedEngine, rgb: np.ndarray, text: str) -> None:
    reader = engine.engine.reader  # type: ignore[attr-defined]
    first = reader._segmenter.lisa.llama.config.vocab_size
    ids = reader.prompt(messages_of([], text, None, literal=True), 5)
    assert not any(i >= first or i == reader._seg_id for i in ids)
    answer = engine.ask(engine.encode(rgb), Ask(text))
    assert all(answer.text[slice(*region.span)] == f"[{n}]" for n, region in enumerate(answer.regions, 1))


@pytest.mark.parametrize("count", [1, 2000])
def test_any_number_of_proposals(engine: SupportedEngine, rgb: np.ndarray, count: int) -> None:
    """Overlapping, nested and empty ones: what is named is one of them."""
    masks = np.zeros((count, *rgb.shape[:2]), bool)
    for number, mask in enumerate(masks):
        side = number % 90
        mask[number % 300 : number % 300 + side, number % 500 : number % 500 + 2 * side] = True
    answer = engine.ask(engine.encode(rgb), Ask("the cup", proposals=Proposals(masks=masks)), details=True)
    assert answer.details is not None
    indices = answer.details["proposal_ids"]
    assert [masks[index].sum() for index in indices] == [region.mask.area for region in answer.regions]


@pytest.mark.parametrize("limit", range(1, 9))
def test_an_answer_that_is_cut_has_whole_mentions(
    engine: SupportedEngine, rgb: np.ndarray, record: dict[str, Any], limit: int
) -> None:
    ask = Ask(f"the {things(record)[0]['class']}", max_new_tokens=limit)
    answer = engine.ask(engine.encode(rgb), ask, details=True)
    assert answer.details is not None
    assert len(answer.details["answer_ids"]) <= limit
    assert answer.text.count("[") == answer.text.count("]") == len(answer.regions)


def test_embeddings_of_another_kind_are_named(engine: SupportedEngine, rgb: np.ndarray) -> None:
    with pytest.raises(CommandError, match=r"shape \(2, 512\); .* reads mask prompts \(N, 96\)"):
        engine.ask(engine.encode(rgb), Ask("the cup", proposals=Proposals(embeddings=np.ones((2, 512), np.float32))))


def test_a_follow_up_may_name_a_number(engine: SupportedEngine, rgb: np.ndarray, record: dict[str, Any]) -> None:
    """This model reads no masks in questions, so a number becomes the name of its thing."""
    encoded, history = engine.encode(rgb), Conversation()
    thing = things(record)[0]["class"]
    answer = engine.ask(encoded, Ask(f"the {thing}", history=history))
    if not answer.regions:
        pytest.skip("the model does not see this thing")
    engine.ask(encoded, Ask("what is left of number 1?", history=history))
    assert f"number 1 (the {answer.regions[0].phrase})" in history.turns[-1].question
    assert len(history.turns) == 2


def test_text_comes_before_its_region(engine: SupportedEngine, rgb: np.ndarray, record: dict[str, Any]) -> None:
    events: list[Event] = []
    engine.ask(engine.encode(rgb), Ask(f"the {things(record)[0]['class']}"), on_event=events.append)
    shown = [event for event in events if isinstance(event, Token | Regions)]
    for before, event in pairwise(shown):
        if isinstance(event, Regions):
            assert isinstance(before, Token)
            assert before.text.endswith("[1]")


# --- the pointer and its training


def test_the_shares_of_seg_add_up_to_one_and_the_nearest_has_most() -> None:
    pointer, generator = Pointer(8, 16), torch.Generator().manual_seed(0)
    prompts = torch.randn(5, 8, generator=generator)
    shares = pointer.shares(prompts[[3, 1]], prompts).exp()
    torch.testing.assert_close(shares.sum(1), torch.ones(2))
    assert shares.argmax(1).tolist() == [3, 1]
    assert not pointer.rows(prompts, torch.zeros(5, 6)).any(), "an untrained row is that of [SEG]"


def test_a_seg_becomes_as_many_mentions_as_it_needs() -> None:
    """Everything behind moves along."""
    suffix = Suffix(
        ids=[1, 2, 9, 3, 9, 4],
        weights=[0.0, 1.0, 1.0, 1.0, 3.0, 1.0],
        segs=[2, 4],
        targets=[[1, 2], [3]],
        presence=[(1, True), (3, True)],
        nouns=[(5, [1])],
        meant=[(2, [1, 2]), (4, [3])],
        asked=[(0, [1])],
    )
    wider = with_mentions(suffix, [3, 2])
    assert wider.ids == [1, 2, 9, 9, 9, 3, 9, 9, 4]
    assert wider.weights == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 1.0, 1.0]
    assert (wider.segs, wider.targets) == ([2, 3, 4, 6, 7], [[1, 2]] * 3 + [[3]] * 2)
    assert (wider.presence, wider.nouns) == ([(1, True), (5, True)], [(8, [1])])
    assert (wider.meant, wider.asked) == ([(2, [1, 2]), (6, [3])], [(0, [1])])
    assert with_mentions(suffix, [1, 1]) == suffix


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, record: dict[str, Any]) -> Path:
    """The model of a run of two steps, on copies of the demo's scene."""
    if find_spec("accelerate") is None:
        pytest.skip("needs pip install 'lisa_ros[train]'")
    from lisa_small.training.extract import train

    folder = tmp_path_factory.mktemp("extract")
    scenes = folder / "scenes"
    scenes.mkdir()
    shutil.copyfile(DEMO / "scene.jpg", scenes / "scene.jpg")
    shutil.copyfile(DEMO / "scene_ids.png", scenes / "ids.png")
    lines = [
        json.dumps({**record, "id": str(n), "image": "scene.jpg", "ids": "ids.png", "depth": None}) for n in range(3)
    ]
    (scenes / "scenes.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    settings = {
        "steps": 2,
        "pictures": 2,
        "conversations": 3,
        "warmup": 1,
        "absent": 0.0,
        "empty_cells": 20,
        "lr": 1e-3,
    }
    config = {"data": str(scenes), "out": str(folder / "run"), "validation": 1, "rank": 2, "round": settings}
    assert train({"recipe": "extract_small", **config}) == 0
    return folder / "run/model"


def test_a_run_ends_in_a_small_file_that_the_engine_loads(
    trained: Path, rgb: np.ndarray, record: dict[str, Any]
) -> None:
    assert (trained / WEIGHTS).stat().st_size < 2_000_000
    engine = load_engine(trained, "cpu", "fp32")
    answer = engine.ask(engine.encode(rgb), Ask(f"the {things(record)[0]['class']}"))
    assert engine.info.capabilities == {"history", "proposals"}
    assert answer.text


def test_a_broken_extractive_model_is_named(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    (folder / "engine.json").write_text(json.dumps({"engine": "elisa_small", "base": str(tmp_path / "none")}))
    with pytest.raises(ConfigError, match="is no finished small model"):
        load_engine(folder, "cpu")
    (folder / "engine.json").write_text(json.dumps({"engine": "elisa_small"}))
    (folder / WEIGHTS).write_bytes(b"half")
    with pytest.raises(CheckpointError):
        load_engine(folder, "cpu")
