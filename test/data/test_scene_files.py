"""The format of `lisa scenes`, read for both trainings and for evaluation alike."""

import json
import random
from pathlib import Path

import pytest
from training_data import write_scenes

from lisa_ros.data.scenes import read_records
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.training.datasets.mixture import Mixture
from lisa_small.training.dataset import Scenes
from lisa_small.training.scenes import read_scenes


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "it is not a JSON object"),
        ("{", "Expecting property name"),
        ('{"id": "x", "image": null, "ids": "y"}', "'image' is None; it must be text"),
        ('{"id": "x", "image": "y", "ids": "z"}', "'objects' must be a list"),
        ('{"id": "x", "image": "y", "ids": "z", "objects": [{"id": 300, "class": "cup"}]}', "an 'id' from 1 to 255"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(tmp_path, caplog, line, reason):
    folder = write_scenes(tmp_path / "scenes", 3)
    with open(folder / "scenes.jsonl", "a") as file:
        file.write(line + "\n")
    for read in (read_records, read_scenes, lambda folder: list(read_pictures(folder))):
        caplog.clear()
        assert len(read(folder)) == 3
        assert "scenes.jsonl, line 4" in caplog.text
        assert reason in caplog.text


def test_a_scene_that_cannot_be_used_is_left_out_by_training_as_by_evaluation(tmp_path, caplog):
    folder = write_scenes(tmp_path / "scenes", 5)
    records = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    records[1]["conversations"][0] = {"turns": "none"}
    records[2]["conversations"][0]["turns"][0]["targets"] = None
    (folder / "ids" / "000003.png").write_bytes(b"no picture")
    (folder / "scenes.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [picture.name for picture in read_pictures(folder)] == ["000000", "000004"]
    assert all(name in caplog.text for name in ("000001", "000002", "000003"))
    caplog.clear()
    mixture, rng = Mixture([Scenes(folder, questions=3)], [1.0]), random.Random(0)
    drawn = {Path(mixture.draw(rng).name).stem for _ in range(60)}
    assert "000003" not in drawn
    assert {"000000", "000004"} <= drawn
    assert all(name in caplog.text for name in ("000001", "000003"))
