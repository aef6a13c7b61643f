"""``ros2 run lisa_ros ask`` as a process, with a running node: what it prints, its exit codes, Ctrl-C."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading

import pytest
from robot import REPOSITORY, scene

from lisa_ros.msg import Segmentation
from lisa_ros.ros import ask


class Terminal:
    """The process, with its lines as they come."""

    def __init__(self, client, *arguments: str, node: str = "") -> None:
        self.client = client
        self.process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "scripts/ask"), *arguments, "--node", node or client.lisa.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])),
        )
        self._pieces: queue.Queue[str] = queue.Queue()
        self._printed = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while piece := self.process.stdout.read(1):
            self._pieces.put(piece)

    @property
    def printed(self) -> str:
        while not self._pieces.empty():
            self._printed += self._pieces.get()
        return self._printed

    def wait_for(self, text: str) -> None:
        self.client.wait(lambda: text in self.printed or self.process.poll() is not None, f"{text!r} printed")
        assert text in self.printed, self.process.stderr.read()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.code()

    def code(self) -> int:
        """The exit code, once it has ended; the camera goes on meanwhile."""
        self.client.wait(lambda: self.process.poll() is not None, "end of ask")
        self.error = self.process.stderr.read()
        return self.process.returncode


@pytest.fixture
def terminal(client):
    """terminal(*arguments) -> Terminal; all are ended."""
    terminals: list[Terminal] = []

    def start(*arguments: str, **fields) -> Terminal:
        terminals.append(Terminal(client, *arguments, **fields))
        return terminals[-1]

    yield start
    for one in terminals:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()


def test_the_answer_is_printed_with_box_and_score(client, terminal):
    client.show(scene())
    asked = terminal("the box twice")
    assert asked.code() == ask.FOUND, asked.error
    lines = asked.printed.splitlines()
    assert lines[0].startswith("Both: [SEG] [SEG].")
    assert lines[1:] == ["1: box 100,60,60,60, score 0.90", "2: box 160,60,60,60, score 0.90"]
    assert asked.error == ""


def test_the_text_is_printed_while_it_comes_and_ctrl_c_cancels(client, terminal):
    client.show(scene())
    asked = terminal("the slow box")
    asked.wait_for("really really")
    assert asked.interrupt() == ask.INTERRUPTED
    results = client.wait(lambda: [r for r in client.heard["result"] if r.command == "the slow box"], "result")
    assert [r.status for r in results] == [Segmentation.CANCELED]
    client.works()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing"], ask.NOT_FOUND, "nothing like that"),
        (["the box", "--camera", "rear"], ask.ERROR, "INVALID_COMMAND: there is no camera 'rear'"),
        (["the slow box", "--timeout", "0.3"], ask.ERROR, "TIMEOUT"),
        (["the box", "--point", "110,70"], ask.ERROR, "takes no points"),
        (["the box", "--box", "1,2,3,4"], ask.ERROR, "nor a box"),
    ],
    ids=["not found", "unknown camera", "timeout", "points", "box"],
)
def test_exit_codes(client, terminal, arguments, code, words):
    client.show(scene())
    asked = terminal(*arguments)
    assert asked.code() == code, asked.error
    assert words in asked.printed + asked.error
    assert "Traceback" not in asked.error


def test_without_a_node_it_says_so(client, terminal):
    asked = terminal("the box", node="/nowhere/lisa")
    assert asked.code() == ask.ERROR
    assert "there is no node /nowhere/lisa" in asked.error


def test_a_standing_command_prints_its_answers_and_ends_with_ctrl_c(client, terminal):
    client.show(scene())
    asked = terminal("the box", "--watch", "5")
    client.wait(lambda: asked.printed.count("1: box 100,60,120,60") >= 3, "three answers")
    assert asked.interrupt() == ask.INTERRUPTED
    client.heard["result"].clear()
    client.works()
    client.works()
    assert not [result for result in client.heard["result"] if result.source == "watch"]


def test_sessions_reach_the_node(client, terminal):
    client.show(scene())
    capable = [terminal("the box", "--session", "s") for _ in range(2)]
    assert [one.code() for one in capable] == [ask.FOUND] * 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a command"),
        (["x", "--point", "1"], "no point"),
        (["x", "--point", "1,2,7"], "no point"),
        (["x", "--box", "1,2,0,4"], "no box"),
        (["x", "--watch", "-1"], "no number above 0"),
        (["x", "--watch", "1", "--explain"], "leave out --explain"),
    ],
)
def test_wrong_arguments_are_named(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        ask.parse(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_points_box_and_targets_are_in_the_goal():
    arguments = ["it", "--point", "1.5,2", "--point", "3,4,0", "--box", "5,6,7,8", "--target", "cup", "--target", "pot"]
    goal = ask.goal_of(ask.parse([*arguments, "--camera", "front", "--timeout", "2.5"]))
    assert [(p.x, p.y) for p in goal.points] == [(1.5, 2.0), (3.0, 4.0)]
    assert list(goal.point_labels) == [1, 0]
    assert (goal.box.x_offset, goal.box.y_offset, goal.box.width, goal.box.height) == (5, 6, 7, 8)
    assert (list(goal.targets), goal.camera) == (["cup", "pot"], "front")
    assert (goal.timeout.sec, goal.timeout.nanosec) == (2, 500_000_000)
