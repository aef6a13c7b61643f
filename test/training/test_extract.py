"""``recipe: extract``: what the repaired loss repairs, the reference's texts, and a run that ends in a model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_elisa import ELISA, WORDS, write_elisa

from lisa_ros import load_engine
from lisa_ros.cli import train as cli
from lisa_ros.engine.api import Ask, Proposals, crop_mask
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.weights import load_elisa, read_spec
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_ros.training import extract_texts
from lisa_ros.training.choices import best_plan
from lisa_ros.training.extract_config import ExtractConfig
from lisa_ros.training.extract_objective import ExtractBatch, ExtractObjective
from lisa_ros.training.extract_texts import Draws
from lisa_ros.training.losses import IGNORE

CASES: dict[str, Any] = json.loads((ELISA / "cases.json").read_text("utf-8"))
FIRST = WORDS + 1


@pytest.fixture(scope="module")
def objective(tmp_path_factory: pytest.TempPathFactory) -> ExtractObjective:
    spec = read_spec(write_elisa(tmp_path_factory.mktemp("extract") / "b", embedding=32))
    cpu = torch.device("cpu")
    return ExtractObjective(load_elisa(spec, FIRST, Precision.pick("fp32", cpu), cpu))


def batch(**changes: Any) -> ExtractBatch:
    """Two samples of two and three proposals; each answers with one of its own."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[2, 5, IMAGE_ID, 7, 86, 5, 252, FIRST + 1], [2, 5, IMAGE_ID, 7, 99, 5, 252, FIRST + 2]])
    labels = torch.full_like(ids, IGNORE)
    labels[:, 6], labels[:, 7] = ids[:, 7], 6
    fields = {
        "pixels": torch.randn(2, 3, 56, 56, generator=generator),
        "embeddings": torch.randn(5, 32, generator=generator),
        "ids": ids,
        "attended": torch.ones_like(ids, dtype=torch.bool),
        "labels": labels,
        "owner": torch.tensor([0, 0, 1, 1, 1]),
    }
    return ExtractBatch(**{**fields, **changes})


def test_padding_on_the_left_changes_nothing(objective: ExtractObjective) -> None:
    plain = batch()

    def padded(rows: torch.Tensor, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(rows, (3, 0), value=value)

    longer = batch(
        ids=padded(plain.ids, 0), attended=padded(plain.attended, False), labels=padded(plain.labels, IGNORE)
    )
    torch.testing.assert_close(objective(plain), objective(longer), rtol=1e-5, atol=1e-5)


def test_proposals_of_another_picture_are_impossible(objective: ExtractObjective) -> None:
    """They may be as likely as they like: the loss does not see them."""
    plain = batch()
    changed = plain.embeddings.clone()
    changed[2:] = 40 * torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    first = torch.where(torch.arange(2)[:, None] == 0, plain.labels, IGNORE)
    losses = [objective(batch(labels=first, embeddings=e))["loss"] for e in (plain.embeddings, changed)]
    torch.testing.assert_close(*losses)


def test_proposals_that_overlap_share_the_target(objective: ExtractObjective) -> None:
    """A soft target with all on one is the label's cross-entropy; an even one is the mean over both."""
    plain = batch()

    def soft(*shares: tuple[int, int, float]) -> torch.Tensor:
        target = torch.zeros(2, 8, 5)
        for sample, proposal, share in shares:
            target[sample, 6, proposal] = share
        return target

    hard = objective(plain)["choices"]
    one = objective(batch(soft=soft((0, 1, 1.0), (1, 2, 1.0))))["choices"]
    torch.testing.assert_close(one, hard)
    other_labels = plain.labels.clone()
    other_labels[0, 6], other_labels[1, 6] = FIRST, FIRST + 3
    other = objective(batch(labels=other_labels))["choices"]
    both = soft((0, 0, 0.5), (0, 1, 0.5), (1, 2, 0.5), (1, 3, 0.5))
    torch.testing.assert_close(objective(batch(soft=both))["choices"], (hard + other) / 2)


def test_a_plan_adds_proposals_while_they_help() -> None:
    masks = np.zeros((4, 1, 100), bool)
    masks[0, :, :30] = masks[1, :, 30:60] = masks[2, :, :28] = masks[3, :, 70:] = True
    truth = np.zeros((1, 100), bool)
    truth[:, :60] = True
    crops = [crop_mask(mask) for mask in masks]
    plan = best_plan(crops, truth)
    assert (set(plan.sequence), plan.iou) == ({0, 1}, 1.0)
    np.testing.assert_allclose(plan.soft.sum(1), 1.0, rtol=1e-6)
    assert plan.soft[0, 3] == 0.0  # what lies beside the truth is no target
    assert not best_plan(crops[3:], truth).sequence
    assert not best_plan([], truth).sequence


@pytest.mark.parametrize("case", CASES["train"], ids=[case["name"] for case in CASES["train"]])
def test_questions_and_answers_are_the_references(case: dict[str, Any]) -> None:
    """Among all that can be drawn is the recorded one."""
    numbers = [[1], [2, 3]]
    every = [
        Draws(first, phrase, request_first, request)
        for first in (True, False)
        for phrase in (None, *range(len(extract_texts.PHRASES)))
        for request_first in (True, False)
        for request in range(len(extract_texts.REQUESTS))
    ]
    for sample, label in enumerate(case["label_texts"]):
        answers = {extract_texts.answer(case["answers"][sample], numbers[sample], draws) + CASES_END for draws in every}
        questions = {extract_texts.question(case["queries"][sample], draws) for draws in every}
        asked = case["input_texts"][sample].split("<image>\n")[1].split("<end_of_turn>")[0]
        assert label in answers
        assert asked in questions


CASES_END = CASES["params"]["end_turn_token"]


# --- a run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ReasonSeg's format, with explanations."""
    folder = tmp_path_factory.mktemp("reasonseg")
    (folder / "train").mkdir()
    (folder / "explanatory").mkdir()
    rng = np.random.default_rng(0)
    explained = []
    for number in range(6):
        x, y = (int(v) for v in rng.integers(10, 60, 2))
        rgb = np.full((80, 100, 3), 100, np.uint8)
        rgb[y : y + 16, x : x + 20] = rng.integers(0, 255, 3)
        cv2.imwrite(str(folder / f"train/{number}.jpg"), rgb)
        corners = [[x, y], [x + 20, y], [x + 20, y + 16], [x, y + 16]]
        label = {
            "text": ["Where is the cup?"],
            "is_sentence": True,
            "shapes": [{"label": "target", "labels": ["target"], "shape_type": "polygon", "points": corners}],
        }
        (folder / f"train/{number}.json").write_text(json.dumps(label))
        explained.append({"image": f"{number}.jpg", "query": "Where is the cup?", "outputs": "A cup stands there."})
        masks = np.zeros((3, 80, 100), bool)
        masks[0, y + 1 : y + 16, x : x + 20] = masks[1, :8, :8] = masks[2, 60:, 60:] = True
        np.savez_compressed(folder / f"train/{number}.npz", masks=masks)
    (folder / "explanatory/train.json").write_text(json.dumps(explained))
    return folder


@pytest.mark.skipif(
    any(find_spec(package) is None for package in ("accelerate", "peft")), reason="needs pip install 'lisa_ros[train]'"
)
@pytest.mark.parametrize(("parity", "attention"), [(False, True), (True, False)])
def test_a_run_ends_in_a_model_that_names_proposals(tmp_path: Path, data: Path, parity: bool, attention: bool) -> None:
    start = write_elisa(tmp_path / "start", embedding=32) / "llava"
    adapter = {"attention": attention, "num_linears": 3, "num_heads": [2], "num_queries": [2], "dropout": 0.0}
    config = {
        "recipe": "extract",
        "run": str(tmp_path / "run"),
        "start": str(start),
        "data": [{"kind": "reasonseg", "path": str(data / "train"), "explanatory": 0.0}],
        "proposals": str(data / "train"),
        "parity": parity,
        "device": "cpu",
        "adapter": adapter,
        "lora": {"rank": 2, "alpha": 4, "dropout": 0.0},
        "steps": 3,
        "warmup": 1,
        "save_every": 2,
    }
    assert cli.RECIPES["extract"] == "lisa_ros.training.extract"
    from lisa_ros.training.extract import train

    assert train(config) == 0
    lines = json.loads((tmp_path / "run/train.json").read_text())
    assert all(np.isfinite(line["loss"]) for line in lines)
    engine = load_engine(tmp_path / "run/model", "cpu", "fp32")
    rgb = cv2.imread(str(data / "train/0.jpg"))
    masks = np.zeros((2, 80, 100), bool)
    masks[0, :20, :20] = masks[1, 30:50, 30:50] = True
    answer = engine.ask(
        engine.encode(rgb), Ask("the cup", proposals=Proposals(masks=masks), max_new_tokens=6), details=True
    )
    assert answer.details is not None
    assert answer.details["step_logits"].shape[1] == 300 + 2
    tensors = torch.load(tmp_path / "run/model/models/extract.pth", weights_only=True)
    moved = [name for name, tensor in tensors.items() if "lora_B" in name and tensor.abs().max() > 0]
    assert moved, "LoRA is trained"
    assert train({**config, "steps": 3}) == 0  # nothing is left to do


def test_settings_that_cannot_be_used_are_named() -> None:
    plain = {"run": "run", "start": "llava", "data": [{"kind": "scenes", "path": "scenes"}]}
    for changes, message in (
        ({"position": "middle"}, "position is 'middle'; choose before, after or randomized"),
        ({"precision": "nf4"}, "precision 'nf4' cannot be used here"),
        ({"lora": {"rank": 8, "alpha": 8}}, "lora.alpha is 8; ELISA's file knows only twice the rank"),
        ({"adapter": {"num_heads": [1, 2]}}, r"num_heads is \[1, 2\] and num_queries \[10\]"),
        ({"unheard": 1.5}, "unheard is 1.5; a share is from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            ExtractConfig.from_dict({**plain, **changes})
