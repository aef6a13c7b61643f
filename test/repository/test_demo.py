"""`make demo` from the outside: what a person types and sees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from machine_speed import limit
from PIL import Image

from lisa_ros.perception.overlay import COLOURS

pytestmark = pytest.mark.weights  # the demo asks the bundled model

pytest.importorskip("rclpy", reason="needs a ROS 2 with rclpy: make build, or source a ROS installation")


def processes_with(text: str) -> list[str]:
    """The command lines that hold ``text``."""
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if text in line]


def demo(repository: Path, *arguments: str, timeout: float = 280.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(repository / "demo" / "run.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=limit(timeout),
        check=False,
    )


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_demo_shows_the_answer_and_writes_the_overlay(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"
    done = demo(repository, "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "you:" in done.stdout
    assert "not configured" not in done.stdout
    assert last_line(done.stdout).startswith("demo: done")
    with Image.open(out) as overlay, Image.open(repository / "demo" / "scene.jpg") as scene:
        assert overlay.size == scene.size
        assert not np.array_equal(np.asarray(overlay), np.asarray(scene.convert("RGB")))
        marked = inside_of_the_mask(np.asarray(overlay), np.asarray(scene.convert("RGB")))
    answer = next(line for line in done.stdout.splitlines() if "[SEG]." in line and line.startswith("lisa: It"))
    assert "It is the screwdriver, [SEG]." in answer, done.stdout
    objects = json.loads((repository / "demo" / "scene.json").read_text())["objects"]
    number = next(thing["id"] for thing in objects if thing["class"] == "screwdriver")
    with Image.open(repository / "demo" / "scene_ids.png") as ids:
        true = np.asarray(ids) == number
    iou = (marked & true).sum() / (marked | true).sum()
    assert iou > 0.7, iou  # 0.83 was measured


def inside_of_the_mask(overlay: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Where the overlay has the first mask's fill, and three pixels more: so much the outline covers of it."""
    fill = (scene.astype(np.uint16) + np.array(COLOURS[0], np.uint16)) * 128 >> 8
    return cv2.dilate((overlay == fill).all(axis=-1).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=3) > 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "there is no file"), (b"", "its format is not known"), (b"plain text", "its format is not known")],
)
def test_demo_says_what_is_wrong_with_a_picture(
    repository: Path, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "photo.jpg"
    if content is not None:
        path.write_bytes(content)
    done = demo(repository, "--image", str(path))
    assert done.returncode == 1
    assert str(path) in last_line(done.stderr)
    assert reason in last_line(done.stderr)


def test_demo_says_that_the_command_is_empty(repository: Path) -> None:
    done = demo(repository, "--command", "  ")
    assert done.returncode == 1
    assert "the command is empty" in last_line(done.stderr)


COMMANDS = ['say "hi" $(id)', "`id` it's $HOME; id", "--explain", "the $5 note \\ 100 %", "カップ"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_make_hands_a_command_over_letter_by_letter(repository: Path, tmp_path: Path, command: str, by: str) -> None:
    """With a python that shows its arguments, in a virtual environment that holds nothing else."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    make = ["make", "--silent", "--old-file=.ros-jazzy/built", "demo", "ROS=jazzy", f"VENV={tmp_path}"]
    if by == "argument":
        make += [f"COMMAND={command}", "IMAGE=a photo.jpg"]
    else:
        environment.update(COMMAND=command, IMAGE="a photo.jpg")
    done = subprocess.run(make, capture_output=True, text=True, cwd=repository, env=environment, check=False)
    assert done.stdout.splitlines() == ["demo/run.py", "--image=a photo.jpg", f"--command={command}"], done.stderr


def test_demo_says_that_no_domain_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import domain
    import run

    def claim() -> None:
        raise RuntimeError("all ROS domains are in use")

    monkeypatch.setattr(domain, "claim", claim)
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(tmp_path / "overlay.png")])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert run.main() == 1
    assert last_line(capsys.readouterr().err) == "demo: FAILED: all ROS domains are in use"


def test_demo_with_a_wrong_model_shows_the_reason_and_leaves_no_process(repository: Path, tmp_path: Path) -> None:
    done = demo(repository, "--model", str(tmp_path / "nothing_here"))
    assert done.returncode == 1
    assert "ask: the model cannot be loaded" in done.stderr
    assert "nothing_here" in done.stderr
    assert last_line(done.stderr) == "demo: FAILED: the reason is above"
    assert not processes_with(str(tmp_path))


def test_demo_shows_why_a_command_is_refused_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    done = demo(repository, "--out", str(tmp_path / "overlay.png"), "--command", "a" * 5000)
    assert done.returncode == 1
    reason, last = done.stderr.splitlines()
    assert reason.startswith("ask: INVALID_COMMAND: the command has 5000 characters")
    assert last == "demo: FAILED: the reason is above"


def test_demo_says_that_nothing_was_found(repository: Path, tmp_path: Path) -> None:
    picture, out = tmp_path / "grey.png", tmp_path / "overlay.png"
    Image.new("RGB", (320, 240), "grey").save(picture)
    done = demo(repository, "--out", str(out), "--image", str(picture), "--command", "the elephant")
    assert done.returncode == 0, done.stdout + done.stderr
    assert last_line(done.stdout).endswith("nothing was found")
    assert "knows only rendered tables" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_demo_ends_with_its_processes_and_no_traceback(
    repository: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    picture, out = tmp_path / "grey.png", tmp_path / "overlay.png"
    Image.new("RGB", (320, 240), "grey").save(picture)
    command = [sys.executable, str(repository / "demo" / "run.py"), "--image", str(picture), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        # The line that the asker says first: all of them run.
        assert any(line.startswith("lisa: ") for line in child.stdout)
        child.send_signal(number)
        said = child.stdout.read()
    assert child.returncode == code
    assert "Traceback" not in said
    end = time.monotonic() + limit(10.0)
    while processes_with(str(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_parts_that_an_engine_leaves_empty_are_left_out() -> None:
    import ask

    assert ask.listed("dark on cpu", "") == "dark on cpu"
    assert ask.listed("lisa-small on cpu", "fp32") == "lisa-small on cpu, fp32"


def test_a_large_photo_becomes_a_camera_sized_stream(tmp_path: Path) -> None:
    import camera

    path = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 3000), "red").save(path)
    assert camera.load_picture(path).shape == (960, 1280, 3)


def test_two_processes_never_share_a_domain() -> None:
    script = "import domain, os; lock = domain.claim(); print(os.environ['ROS_DOMAIN_ID'], flush=True); input()"
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[2] / "demo"))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(5)
    ]
    domains = [child.stdout.readline().strip() for child in children if child.stdout]
    for child in children:
        child.communicate("\n")
    assert len({*domains, os.environ["ROS_DOMAIN_ID"]}) == 6


def test_a_long_answer_is_shown_by_its_last_words() -> None:
    import ask

    assert ask.end_of("It is\nthe cup") == "It is the cup"
    shown = ask.end_of("word " * 100 + "end")
    assert len(shown) == 90
    assert shown.startswith("...")
    assert shown.endswith("word end")
