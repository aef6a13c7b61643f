"""``lisa fetch``, ``lisa inspect`` and ``lisa merge``: what they print; their work is tested beside it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lisa_ros.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fetch") / "out"
    assert main(["fetch", str(GOLDEN / "ckpt"), "--out", str(out)]) == 0
    return out


def test_fetch_ends_with_the_command_that_uses_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fetched: Path
) -> None:
    capsys.readouterr()
    assert main(["fetch", str(GOLDEN / "ckpt"), "--out", str(fetched)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "is complete already" in lines[0]
    assert lines[-1] == f'ready: lisa segment photo.jpg "the thing to drink from" --model {fetched}'
    assert main(["fetch", str(GOLDEN / "clip-tiny"), "--out", str(tmp_path / "clip")]) == 0
    folder = tmp_path / "clip"
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"ready: {folder}; it is a CLIP tower: use it with --vision-tower {folder}"


def test_fetch_of_something_that_is_not_a_model_is_an_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["fetch", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_inspect_prints_text_or_json(fetched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["inspect", str(fetched)]) == 0
    assert "LISA" in capsys.readouterr().out.splitlines()[0]
    assert main(["inspect", str(fetched), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    memory = report["memory"]["fp32"]
    assert memory["total"] == memory["weights"] + memory["cache"] + memory["work"]
    assert report["problems"] == []


def test_inspect_of_a_damaged_checkpoint_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(GOLDEN / "ckpt", tmp_path / "damaged")
    (folder / "added_tokens.json").unlink()
    assert main(["inspect", str(folder)]) == 1
    assert "problem: " in capsys.readouterr().out


def test_merge_needs_lora_weights_and_a_new_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(GOLDEN / "ckpt"), "--out", str(tmp_path)]) == 1
    assert f"{tmp_path} exists; choose another folder" in capsys.readouterr().err
    assert main(["merge", str(GOLDEN / "ckpt"), "--out", str(tmp_path / "out")]) == 1
    assert "has no LoRA weights; there is nothing to merge" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_is_no_error_message(repository: Path) -> None:
    """As in ``lisa inspect FOLDER | head -1``, also where the output is written when Python ends."""
    command = [sys.executable, "-m", "lisa_ros.cli", "inspect", str(GOLDEN / "ckpt")]  # fits into a buffer
    with subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert b"Traceback" not in error
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("fault", "last"),
    [(ValueError("no good"), "lisa: ValueError: no good"), (MemoryError(), "lisa: out of memory; a smaller model")],
)
def test_what_nobody_foresaw_ends_in_one_line_with_its_traceback_above(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fault: Exception, last: str
) -> None:
    def fails(arguments: object) -> int:
        raise fault

    monkeypatch.setattr("lisa_ros.cli.inspect.main", fails)
    assert main(["inspect", str(GOLDEN / "ckpt")]) == 1
    errors = capsys.readouterr().err
    assert errors.splitlines()[-1].startswith(last)
    assert ("in fails" in errors) == isinstance(fault, ValueError)
