"""Files that are whole or not there."""

import os

import pytest
import torch
from safetensors.torch import save_file

from lisa_ros.atomic import replacing
from lisa_ros.training.sharded import ShardWriter


@pytest.fixture
def _everyone_may_read():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_everyone_may_read")
def test_weights_can_be_read_by_whom_other_files_can_be_read(tmp_path):
    """safetensors alone makes files that only their user may read: not the one that the node runs as."""
    with replacing(tmp_path / "model.safetensors") as unfinished:
        save_file({"a": torch.zeros(2)}, unfinished)
    writer = ShardWriter(tmp_path / "merged")
    writer.write({"a": torch.zeros(2)})
    for file in (tmp_path / "model.safetensors", tmp_path / "merged" / "model-00001.safetensors"):
        assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("_everyone_may_read")
def test_what_a_killed_run_left_changes_nothing(tmp_path):
    (leftover := tmp_path / ".unfinished-state.json").write_text("half")
    leftover.chmod(0o600)
    with replacing(tmp_path / "state.json") as unfinished:
        unfinished.write_text("whole")
    assert (tmp_path / "state.json").read_text() == "whole"
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o644


def test_where_nothing_is_written_the_file_stays(tmp_path):
    (file := tmp_path / "state.json").write_text("before")
    with pytest.raises(FileNotFoundError), replacing(file):
        pass
    assert file.read_text() == "before"


def test_what_was_not_finished_leaves_the_file_as_it_was(tmp_path):
    (file := tmp_path / "state.json").write_text("before")

    def stop(unfinished):
        unfinished.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), replacing(file) as unfinished:
        stop(unfinished)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]
