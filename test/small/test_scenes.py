"""Scenes as they are rendered and written. Without MuJoCo and OpenGL the tests are skipped, with the reason."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from needs import missing
from PIL import Image

from lisa_ros import cli
from lisa_ros.data.reasonseg import read_folder
from lisa_ros.errors import ConfigError, LisaError
from lisa_small.scenes import SPLITS
from lisa_small.scenes.cli import prepare

try:
    from lisa_small.scenes import assets, dataset, layout, reasonseg, render
    from lisa_small.scenes.commands import conversations_for
    from lisa_small.scenes.world import CLASSES, WORLD

    STUDIO = render.Studio()
except (LisaError, ImportError, AttributeError, OSError) as error:
    missing("opengl", f"scenes cannot be drawn (pip install mujoco, apt install libegl1 libegl-mesa0): {error}")

SIZE = (160, 120)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[layout.Layout, render.Frame, dict]]:
    drawn = []
    for seed in range(8):
        arranged, frame = dataset.photograph(STUDIO, seed, "train", SIZE)
        drawn.append((arranged, frame, dataset.describe(arranged, frame, str(seed), seed, True)))
    return drawn


def test_every_object_of_a_scene_is_visible_and_its_area_is_counted(scenes):
    for arranged, frame, record in scenes:
        assert frame.rgb.shape == (120, 160, 3) and frame.ids.shape == frame.depth.shape == (120, 160)
        assert set(np.unique(frame.ids)) - {0} == {thing["id"] for thing in record["objects"]}
        for thing in record["objects"]:
            assert thing["area"] == (frame.ids == thing["id"]).sum() >= dataset.SMALLEST * frame.ids.size
        assert len(arranged.placements) == len(record["objects"]) <= 10


def test_depth_and_camera_agree_with_where_the_objects_are(scenes):
    for _, frame, record in scenes:
        camera = record["camera"]
        for thing in record["objects"]:
            mask = frame.ids == thing["id"]
            ys, xs = np.nonzero(mask)
            z = frame.depth[mask].astype(np.float64)
            seen = [
                np.median((xs - camera["cx"]) * z / camera["fx"]),
                np.median((ys - camera["cy"]) * z / camera["fy"]),
                np.median(z),
            ]
            assert np.linalg.norm(np.subtract(seen, thing["position"])) < max(thing["size"]), thing


def views_of(name: str) -> Iterator[tuple[layout.Layout, assets.Model]]:
    """One object alone, from four sides, in pictures of an odd and an even width and height."""
    index = [model.name for model in assets.load_models()].index(name)
    model = assets.load_models()[index]
    base = layout.sample_layout(0, "train", SIZE)
    for number, (width, height) in enumerate(((640, 480), (480, 641), (513, 512), (641, 361))):
        angle = 0.4 + number * math.pi / 2
        eye = (0.6 * math.cos(angle), 0.6 * math.sin(angle), 0.5)
        view = layout.View(eye, (0.05, -0.03, 0.08), roll_deg=20.0 * number, fovy_deg=45.0, width=width, height=height)
        placement = layout.Placement(index, 0, np.zeros(3), np.array([1.0, 0, 0, 0]))
        yield replace(base, placements=(placement,), view=view), model


@pytest.mark.parametrize("name", ["cardboard_box_a", "basketball_a"])
def test_points_projected_by_the_written_camera_land_on_the_rendered_pixels(name):
    """The outline of a convex object is the convex hull of its projected points: their centroids agree."""
    for arranged, model in views_of(name):
        camera = dataset.describe_camera(arranged.view)
        points = np.concatenate([part.vertices for part in model.parts]).astype(np.float64)
        x, y, z = ((points - arranged.view.eye) @ render.camera_axes(arranged.view) * [1, -1, -1]).T
        pixels = np.stack([camera["fx"] * x / z + camera["cx"], camera["fy"] * y / z + camera["cy"]], axis=1)
        outline = cv2.moments(cv2.convexHull(pixels.astype(np.float32)))
        projected = outline["m10"] / outline["m00"], outline["m01"] / outline["m00"]
        ids, _ = STUDIO.measure(arranged)
        ys, xs = np.nonzero(ids)
        assert np.abs(np.subtract(projected, (xs.mean(), ys.mean()))).max() < 0.1, arranged.view
        assert np.abs(dataset.project(arranged.view, points) - pixels).max() < 1e-6


def test_the_same_seed_gives_the_same_scene(scenes):
    _, frame, record = scenes[2]
    again_layout, again = dataset.photograph(STUDIO, 2, "train", SIZE)
    assert dataset.describe(again_layout, again, "2", 2, True) == record
    assert np.array_equal(frame.rgb, again.rgb) and np.array_equal(frame.ids, again.ids)


def moved(before, after) -> list[tuple[float, float]]:
    """For each placement in both lists: its way in metres, and the angle between its upward axes in degrees."""
    moves, up = [], np.array([[0.0, 0.0, 1.0]])
    ends = {(placement.model, placement.copy): placement for placement in after}
    for start in before:
        if (end := ends.get((start.model, start.copy))) is not None:
            cosine = (layout.rotate(start.quat, up) * layout.rotate(end.quat, up)).sum()
            lean = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            moves.append((float(np.linalg.norm(end.position - start.position)), float(lean)))
    return moves


def test_objects_come_to_rest_on_the_table():
    models, again = assets.load_models(), []
    for seed in range(12):
        arranged = layout.sample_layout(seed, "train", SIZE)
        for placement in arranged.placements:
            hull = layout.rotate(placement.quat, models[placement.model].hull) + placement.position
            assert -0.012 < hull[:, 2].min() < 0.25, models[placement.model].name
        settled = layout.settle(list(arranged.placements), arranged.table_size)
        assert len(settled) == len(arranged.placements)
        again += moved(arranged.placements, settled)
    assert max(metres for metres, _ in again) < 0.01
    assert max(degrees for _, degrees in again) < 30
    assert np.median([metres for metres, _ in again]) < 0.001  # what is only placed falls two millimetres


def test_objects_that_are_only_placed_are_moved_by_settling():
    settled = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        placed = layout.place(rng, layout.choose_models(rng, "train", 6))
        settled += moved(placed, layout.settle(placed, (0.9, 0.9)))
    assert np.median([metres for metres, _ in settled]) > 0.0015
    assert max(degrees for _, degrees in settled) > 10


def test_objects_hide_parts_of_each_other(scenes):
    """They stand apart on the table; from where the camera is one is still partly behind another."""
    shares = []
    for arranged, frame, _ in scenes:
        for number, placement in enumerate(arranged.placements, 1):
            alone = STUDIO.measure(replace(arranged, placements=(placement,)))[0] == 1
            visible = frame.ids == number
            assert not (visible & ~alone).any()
            assert (frame.ids[alone & ~visible] > 0).all(), "the table hides nothing that stands on it"
            shares.append(visible.sum() / alone.sum())
    assert min(shares) < 0.7 and np.median(shares) == 1, shares


def test_depth_is_written_in_millimetres(scenes, tmp_path):
    for folder in ("images", "ids", "depth"):
        (tmp_path / folder).mkdir()
    for _, frame, record in scenes:
        dataset.save_images(tmp_path, record, frame)
        with Image.open(tmp_path / record["depth"]) as picture:
            written = np.asarray(picture)
        assert written.dtype == np.uint16
        assert np.abs(written / 1000 - frame.depth).max() <= 0.001
        with Image.open(tmp_path / record["ids"]) as picture:
            assert np.array_equal(np.asarray(picture), frame.ids)


def test_held_out_models_are_in_novel_scenes_only():
    models, rng = assets.load_models(), np.random.default_rng(0)
    for split in SPLITS:
        chosen = {index for _ in range(60) for index in layout.choose_models(rng, split, 5)}
        assert any(models[index].held_out for index in chosen) == (split == "novel")
    assert not set(layout.SURFACES["train"]) & set(layout.SURFACES["test"])


def test_classes_with_a_common_name_never_share_a_scene():
    models, rng = assets.load_models(), np.random.default_rng(1)
    for _ in range(100):
        labels = {models[index].label for index in layout.choose_models(rng, "train", 8)}
        for label in labels:
            assert not labels & set(WORLD.things[label].near)


def test_the_packaged_objects_are_small_and_credited():
    files = [path for path in assets.FOLDER.rglob("*") if path.is_file()]
    assert sum(file.stat().st_size for file in files) < 12e6
    entries = json.loads((assets.FOLDER / "models.json").read_text())
    credits = (assets.FOLDER / "CREDITS.md").read_text()
    assert {entry["class"] for entry in entries} == set(CLASSES)
    # An object's textures lie in its file; those of the room are drawn, and no picture of anybody's is packaged.
    named = {f"{entry['name']}.npz" for entry in entries}
    assert {file.name for file in files} == named | {"models.json", "CREDITS.md"}
    assert "Table, floor and wall textures are drawn by this package (`lisa_small/scenes/textures.py`)." in credits
    for entry in entries:
        assert f"| {entry['name']} | {entry['source']} | {entry['creator']} | {entry['licence']} |" in credits
        assert entry["licence"].startswith(("CC0", "CC BY 3.0"))


def test_polygons_give_the_same_mask_back_even_with_holes():
    rng = np.random.default_rng(3)
    masks = [np.zeros((40, 50), bool) for _ in range(3)]
    masks[0][5:30, 5:40], masks[0][10:20, 10:20], masks[0][12:15, 25:30] = True, False, False
    masks[1][np.hypot(*np.mgrid[-20:20, -25:25]) < 15] = True
    masks[2] = cv2.resize(rng.random((8, 10)), (50, 40)) > 0.55
    for mask in masks:
        painted = np.zeros(mask.shape, np.uint8)
        for points in reasonseg.polygons(mask):
            cv2.polylines(painted, np.array([points], np.int32), True, 1, 1)
            cv2.fillPoly(painted, np.array([points], np.int32), 1)
        assert np.array_equal(painted.astype(bool), mask)


def lisa(*words: str) -> int:
    """Runs ``lisa scenes``."""
    return cli.main(["scenes", *words])


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("written") / "scenes"
    assert lisa("--out", str(out), "--count", "2", "--seed", "3", "--size", "160x120", "--preview") == 0
    return out


def test_lisa_scenes_writes_what_training_reads(written):
    records = [json.loads(line) for line in (written / "scenes.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == ["000000", "000001"]
    for record in records:
        assert all((written / record[kind]).is_file() for kind in ("image", "ids", "depth"))
        assert record["conversations"]
    assert (written / "preview.png").is_file()
    assert lisa("--out", str(written), "--count", "1") != 0, "a folder with scenes is overwritten on request only"


def test_lisa_scenes_with_the_same_seed_writes_the_same_scenes(written, tmp_path):
    """In another process, whose sets have another order."""
    out = tmp_path / "again"
    arguments = ["--out", str(out), "--count", "2", "--seed", "3", "--size", "160x120", "--preview"]
    command = [sys.executable, "-m", "lisa_ros.cli", "scenes", *arguments]
    environment = dict(os.environ, PYTHONHASHSEED="1" if os.environ.get("PYTHONHASHSEED") != "1" else "2")
    subprocess.run(command, env=environment, check=True, capture_output=True)
    first, second = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (written, out)
    )
    assert first.keys() == second.keys() and len(first) == 8
    assert [name for name in first if first[name] != second[name]] == []


def test_lisa_scenes_writes_reasonseg_pairs(tmp_path):
    out = tmp_path / "pairs"
    assert lisa("--out", str(out), "--count", "1", "--size", "160x120", "--format", "reasonseg") == 0
    kinds = {}
    for path in out.glob("*.json"):
        label = json.loads(path.read_text())
        assert path.with_suffix(".jpg").is_file() and isinstance(label["text"][0], str)
        assert {shape["shape_type"] for shape in label["shapes"]} <= {"polygon"}
        assert bool(label["shapes"]) == ("[SEG]" in label["answer"])
        kinds[path.stem] = label["kind"]
    assert kinds and {example.name: example.kind for example in read_folder(out)} == kinds


def test_reasonseg_pairs_are_read_back_as_they_were_written(scenes, tmp_path):
    expected = {}
    for _, frame, record in scenes:
        made = conversations_for(record, random.Random(0), 6, "train")
        reasonseg.save_pairs(tmp_path, record | {"conversations": made}, frame)
        single = [conversation for conversation in made if len(conversation["turns"]) == 1]
        expected |= {f"{record['id']}_{number}": (one, frame.ids) for number, one in enumerate(single)}
    examples = {example.name: example for example in read_folder(tmp_path)}
    assert examples.keys() == expected.keys() and len(expected) > 20
    for name, (conversation, ids) in expected.items():
        example, turn = examples[name], conversation["turns"][0]
        assert np.array_equal(example.truth, np.isin(ids, turn["targets"])), name
        assert example.texts == (turn["command"],) and example.kind == conversation["kind"]
        assert example.is_sentence == reasonseg.is_sentence(turn["command"])


def test_the_random_state_of_the_caller_does_not_change():
    random.seed(1)
    before = random.getstate()
    layout.sample_layout(5, "train", SIZE)
    assert random.getstate() == before


@pytest.mark.parametrize(
    "foreign",
    ["images/holiday.jpg", "notes.txt", "20240101_123456.jpg", "000001_0.jpg", "scenes.jsonl images/holiday.jpg"],
)
def test_a_folder_with_a_foreign_file_is_not_overwritten(tmp_path, foreign):
    for name in foreign.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"dear")
    with pytest.raises(ConfigError, match=r"is not of `lisa scenes`, so .* is left as it is"):
        prepare(tmp_path, overwrite=True)
    assert all((tmp_path / name).read_bytes() == b"dear" for name in foreign.split())


@pytest.mark.parametrize(
    "ours", ["scenes.jsonl preview.png images/000000.jpg ids/000000.png", "000001_0.jpg 000001_0.json preview.png"]
)
def test_a_folder_of_scenes_is_emptied_with_overwrite(tmp_path, ours):
    for name in ours.split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"old")
    with pytest.raises(ConfigError, match="is not empty; name another folder or add --overwrite"):
        prepare(tmp_path, overwrite=False)
    prepare(tmp_path, overwrite=True)
    assert not list(tmp_path.iterdir())
