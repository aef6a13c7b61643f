"""``recipe: choose_small``: its losses, and a run of a few steps whose files the engines load."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from goldens import read_rgb

from lisa_ros import load_engine
from lisa_ros.cli import train as cli
from lisa_ros.engine.api import Ask
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.cells import CellPointer
from lisa_ros.extractive.selector import Selector
from lisa_small.training.choose import Picture, covered_cells, pointer_loss, selector_loss, train
from lisa_small.training.packing import Cells

DEMO = Path(__file__).resolve().parents[2] / "demo"


def picture() -> Picture:
    """Two objects, three proposals: the first object, half of the second one, and both. Four cells, two commands."""
    torch.manual_seed(0)
    return Picture(
        features=torch.randn(3, 6),
        tokens=torch.randn(4, 5).half(),
        inside=torch.tensor([[100.0, 0.0], [0.0, 20.0], [100.0, 40.0]]),
        areas=torch.tensor([100.0, 25.0, 140.0]),
        objects=torch.tensor([100.0, 40.0]),
        cells=torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 0.25, 0.5, 0.0]]),
        prompts=torch.randn(2, 8),
        meant=torch.tensor([[True, False], [False, True]]),
    )


def test_ious_and_shares_of_proposals() -> None:
    one = picture()
    torch.testing.assert_close(one.ious, torch.tensor([[1.0, 0.0, 100 / 140], [0.0, 20 / 45, 40 / 140]]))
    torch.testing.assert_close(one.shares, torch.tensor([[1.0, 0.0, 100 / 140], [0.0, 0.8, 40 / 140]]))


def test_the_pointer_is_trained_on_what_cells_show() -> None:
    """An untrained pointer of zeros says 0.5 everywhere: log 2, whatever the weights; cells without things are out."""
    pointer = CellPointer(8, 5, width=4)
    with torch.no_grad():
        for parameter in pointer.parameters():
            parameter.zero_()
    one = picture()
    assert float(pointer_loss(pointer, one)) == pytest.approx(math.log(2), rel=1e-5)
    one.tokens[3] = math.nan  # an empty cell
    assert float(pointer_loss(pointer, one)) == pytest.approx(math.log(2), rel=1e-5)


def test_covered_cells_are_shares_of_cells() -> None:
    """An object of a tenth of the square, three quarters of it in the first cell of four."""
    parts = {5: torch.tensor([0.75, 0.25, 0.0, 0.0])}
    cells = Cells(torch.zeros(0), torch.zeros(0), {5: (0.1, 0.1, 0.1)}, parts)
    torch.testing.assert_close(covered_cells(cells, [5], 2), torch.tensor([[0.3, 0.1, 0.0, 0.0]]))
    assert covered_cells(cells, [], 2).shape == (0, 4)


def test_both_losses_fall_when_trained_on_one_picture() -> None:
    one = picture()
    selector = Selector(8, inner=16, iou_inner=8, embedding_inner=16, features=6)
    pointer = CellPointer(8, 5, width=4)
    for module, loss in ((selector, selector_loss), (pointer, pointer_loss)):
        optimizer = torch.optim.Adam(module.parameters(), 0.01)
        before = float(loss(module, one))
        for _ in range(60):
            optimizer.zero_grad()
            value = loss(module, one)
            value.backward()
            optimizer.step()
        assert float(value) < 0.7 * before


def scenes(folder: Path, count: int) -> Path:
    """Copies of the demo's scene."""
    folder.mkdir()
    shutil.copyfile(DEMO / "scene.jpg", folder / "scene.jpg")
    shutil.copyfile(DEMO / "scene_ids.png", folder / "ids.png")
    record = json.loads((DEMO / "scene.json").read_text("utf-8"))
    records = [{**record, "id": str(n), "image": "scene.jpg", "ids": "ids.png", "depth": None} for n in range(count)]
    (folder / "scenes.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), "utf-8")
    return folder


@pytest.mark.weights
def test_a_run_ends_in_files_that_the_engines_load(tmp_path: Path) -> None:
    config = {"data": str(scenes(tmp_path / "scenes", 3)), "out": str(tmp_path / "run"), "validation": 1}
    assert train({"recipe": "choose_small", **config, "conversations": 4, "epochs": 2, "pictures": 2}) == 0
    lines = json.loads((tmp_path / "run/choose.json").read_text("utf-8"))
    assert lines[-1]["step"] == 2
    assert 0 <= lines[-1]["most similar right"] <= 1
    rgb = read_rgb(DEMO / "scene.jpg")
    for options in (
        {"family": "llm-seg", "selector": str(tmp_path / "run/selector.safetensors"), "choice": "both"},
        {"family": "cells", "pointer": str(tmp_path / "run/cells.safetensors")},
    ):
        engine = load_engine(device="cpu", precision="fp32", options=options)
        assert engine.ask(engine.encode(rgb), Ask("the screwdriver")).found


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    data = {"data": str(scenes(tmp_path / "scenes", 2)), "out": str(tmp_path / "run")}
    for changes, message in (
        ({"validation": 2}, "has 2 scenes; more than 2 are needed"),
        ({"epochs": 0}, "epochs is 0; it must be above 0"),
        ({"epoch": 3}, "'epoch' is not a setting; did you mean 'epochs'"),
    ):
        with pytest.raises(ConfigError, match=message):
            train({"recipe": "choose_small", **data, **changes})
    settings = cli.read_config(DEMO.parent / "config/train_choose_small.yaml")
    assert settings["recipe"] in cli.RECIPES
