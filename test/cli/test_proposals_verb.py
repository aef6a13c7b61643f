"""``lisa proposals``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisa_ros import cli

SCENE = str(Path(__file__).parents[2] / "demo" / "scene.jpg")
IDS = str(Path(__file__).parents[2] / "demo" / "scene_ids.png")


def test_numbered_proposals(tmp_path, capsys) -> None:
    picture, document = tmp_path / "numbered.png", tmp_path / "proposals.json"
    assert cli.main(["proposals", SCENE, "--out", str(picture), "--json", str(document), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(document.read_text("utf-8"))["proposals"]
    assert [one["number"] for one in found] == list(range(1, len(found) + 1))
    assert len(lines) == len(found) + 2
    assert {"screwdriver", "cup"} <= {one["phrase"] for one in found}
    assert [one["area_px"] for one in found] == sorted((one["area_px"] for one in found), reverse=True)
    drawn, shown = np.asarray(Image.open(picture)), np.asarray(Image.open(SCENE))
    assert drawn.shape == shown.shape
    assert (drawn != shown).any()


def test_masks_of_a_file(capsys) -> None:
    options = ["--proposer", "given", "--proposer-option", f"masks={IDS}", "--order", "position", "--limit", "3"]
    assert cli.main(["proposals", SCENE, "--json", "-", "--device", "cpu", *options]) == 0
    found = json.loads(capsys.readouterr().out)["proposals"]
    assert len(found) == 3
    assert found[0]["box_px"]["y"] <= found[2]["box_px"]["y"] + found[2]["box_px"]["height"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--proposer", "drown"], "there is no proposer 'drown'"),
        (["--proposer", "given"], "give option masks=FILE"),
        (["--proposer-option", "points"], "is not name=value"),
        (["--order", "size"], "the order of proposals is 'size'"),
        (["--out", "a.doc"], "this format cannot be written"),
    ],
)
def test_mistakes_are_one_line(options, message, capsys) -> None:
    assert cli.main(["proposals", SCENE, "--device", "cpu", *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
