"""Several targets an image: GSVA's figures are its reference's, and the strict ones are strict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from goldens import ALL_FULL, GOLDEN, iou, read_rgb

from lisa_ros import load_engine
from lisa_ros.cli import main
from lisa_ros.engine.api import TARGETS, Answer, Ask, EngineInfo, Region, crop_mask
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.evaluation.targets import GsvaScore, Judgement, StrictScore, answered
from lisa_ros.lisa.judge import judge, true_turn
from lisa_ros.lisa.prompt import Prompt, build_prompt
from lisa_ros.lisa.tokenizer import IMAGE_ID

GSVA, CORES = GOLDEN / "gsva", GOLDEN / "cores"


def folders(name: str, full: str, checkpoint: str) -> list[object]:
    """(folder, its checkpoint, its pictures) of the compact golden, and of the full one where it is."""
    found = [pytest.param(GOLDEN / name, GOLDEN / name / "ckpt", GOLDEN / name, id="compact")]
    if (ALL_FULL / full).is_dir():
        found.append(pytest.param(ALL_FULL / full, ALL_FULL / full / checkpoint, ALL_FULL / full / "images", id="full"))
    return found


@pytest.mark.parametrize(("folder", "checkpoint", "pictures"), folders("gsva", "GSVA-A", "merged"))
def test_gsvas_figures_are_its_references(folder: Path, checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    words = [
        "evaluate",
        "--data",
        folder / "grefcoco",
        "--images",
        pictures,
        "--protocol",
        "gsva",
        "--model",
        checkpoint,
    ]
    words += ["--vision-tower", folder / "clip-tiny", "--device", "cpu", "--precision", "fp32", "--json"]
    assert main([str(word) for word in [*words, tmp_path / "scores.json"]]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    expected = json.loads((GSVA / "evaluation.json").read_text())["eval_gres"]
    for ours, theirs in {"gIoU": "giou", "cIoU": "ciou", "N_acc": "n_acc", "T_acc": "t_acc"}.items():
        assert scores["gsva"][ours] == pytest.approx(expected[theirs], abs=1e-4)
    assert scores["gsva"]["n"] == scores["strict"]["n"] == 10
    assert scores["strict"]["gIoU"] < scores["gsva"]["gIoU"]


def test_gsvas_prompts_verdicts_and_masks_are_its_references() -> None:
    engine = load_engine(
        GSVA / "ckpt", device="cpu", precision="fp32", options={"vision_tower": str(GSVA / "clip-tiny")}
    )
    segmenter, arrays = engine.engine, np.load(GSVA / "evaluation.npz")
    for case in json.loads((GSVA / "evaluation.json").read_text())["eval_cases"]:
        present = [truth == "[SEG]" for truth in case["ground_truth"]]
        turn = true_turn(case["expressions"], present)
        prompt = build_prompt([turn], segmenter.template, im_start_end=True)
        assert prompt.text == case["conversation"].replace("</s>", "") + "</s>"
        ids = [one for one in segmenter.expand(Prompt(prompt.text)) if one != IMAGE_ID]
        assert ids == [one for one in arrays[f"{case['id']}.input_ids"][0].tolist() if one != IMAGE_ID]
        encoded = segmenter.encode(read_rgb(GSVA / Path(case["image"]).name))
        found = judge(segmenter, encoded, case["expressions"], present)
        assert [verdict for verdict, _ in found] == [one == "[SEG]" for one in case["predicted"]]
        shape = tuple(arrays[f"{case['id']}.masks_shape"])
        masks = np.unpackbits(arrays[f"{case['id']}.masks_bits"])[: np.prod(shape)].reshape(shape).astype(bool)
        for (_, ours), theirs in zip(found, masks, strict=True):
            assert (ours == theirs).all() or iou(ours, theirs) > 0.999


@pytest.mark.parametrize(("folder", "checkpoint", "pictures"), folders("cores", "CORES-A", "ckpt"))
def test_the_validation_of_cores_is_its_references(
    folder: Path, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """Teacher-forced, with the coarse token in the true answer."""
    for label in (folder / "reasonseg_val").glob("*.json"):
        shutil.copy(label, tmp_path)
        shutil.copy(pictures / f"{label.stem}.png", tmp_path)
    words = ["evaluate", "--data", tmp_path, "--model", checkpoint, "--vision-tower", folder / "clip-tiny"]
    words += ["--device", "cpu", "--precision", "fp32", "--json", tmp_path / "scores.txt"]
    assert main([str(word) for word in words]) == 0
    scores = json.loads((tmp_path / "scores.txt").read_text())["teacher_forced"]
    expected = json.loads((CORES / "evaluation.json").read_text())["validate"]
    assert (scores["gIoU"], scores["cIoU"]) == pytest.approx((expected["giou"], expected["ciou"]), abs=1e-4)


def square(top: int, size: int = 4) -> np.ndarray:
    mask = np.zeros((12, 12), bool)
    mask[top : top + size, 2:6] = True
    return mask


def test_the_two_definitions_differ_where_a_target_is_rejected() -> None:
    truth, nothing = square(2).astype(np.uint8), np.zeros((12, 12), np.uint8)
    judgements = [
        (Judgement(False, square(2)), truth),  # rejected, though its mask would be right
        (Judgement(True, square(2)), truth),
        (Judgement(False, square(2)), nothing),
        (Judgement(True, square(2)), nothing),
        (Judgement(True, np.zeros((12, 12), bool)), nothing),  # "yes", with an empty mask
    ]
    reference, strict = GsvaScore(), StrictScore()
    for judgement, true in judgements:
        reference.add(judgement, true)
        strict.add(judgement, true)
    ours = reference.figures()
    assert ours["gIoU"] == pytest.approx(3 / 5, abs=1e-4)
    assert ours["cIoU"] == pytest.approx(32 / 48)
    assert (ours["N_acc"], ours["T_acc"]) == (pytest.approx(1 / 3), 0.5)
    ours = strict.figures()
    assert ours["gIoU"] == pytest.approx(3 / 5, abs=1e-4)
    assert ours["cIoU"] == pytest.approx(16 / 48)
    assert (ours["N_acc"], ours["T_acc"]) == (pytest.approx(2 / 3), 0.5)


def test_a_split_without_absent_targets_has_no_n_acc() -> None:
    score = GsvaScore()
    score.add(Judgement(True, square(2)), square(2).astype(np.uint8))
    assert score.figures()["N_acc"] is None and score.figures()["T_acc"] == 1.0


class Names:
    """An engine that finds the cup, at a place of its own in each list."""

    info = EngineInfo("names", capabilities=frozenset({TARGETS}))

    def __init__(self) -> None:
        self.asked: list[Ask] = []

    def encode(self, rgb: np.ndarray) -> tuple[int, int]:
        return rgb.shape[:2]

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False) -> Answer:
        self.asked.append(ask)
        names = [name for name in ask.targets or (ask.text,) if "cup" in name]
        return Answer(regions=tuple(Region(crop_mask(square(2), score=1.0), 1.0, name) for name in names))


def test_all_targets_of_a_picture_are_asked_for_at_once() -> None:
    names = Names()
    engine = SupportedEngine(names)
    encoded = engine.encode(np.zeros((12, 12, 3), np.uint8))
    found = answered(engine, encoded, ["Cup", "dog", "cup", "the cup, left", "dog"])
    assert [one.present for one in found] == [True, False, True, True, False]  # capitals do not matter
    assert [ask.targets for ask in names.asked] == [("Cup", "dog", "cup"), ()]


def test_protocol_gsva_needs_a_gsva(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--data", GSVA / "grefcoco", "--images", GSVA, "--protocol", "gsva", "--device", "cpu"]
    assert main([str(word) for word in [*words, "--model", GOLDEN / "ckpt"]]) == 1
    assert "protocol gsva is for models of GSVA" in capsys.readouterr().err
