"""The training loop on a model of one number."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lisa_ros.errors import CheckpointError, TrainingDiverged
from lisa_ros.training import loop as loop_module
from lisa_ros.training.loop import Pace, Pass, TrainingLoop, make_accelerator
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import adamw, linear
from lisa_ros.training.snapshot import Snapshots, newest_snapshot

pytestmark = pytest.mark.skipif(
    find_spec("accelerate") is None, reason="needs what training needs: pip install 'lisa_ros[train]'"
)


class Counter:
    """A memory: how often the forward pass was called."""

    def __init__(self):
        self.calls = 0

    def state(self):
        return self.calls

    def resume(self, state):
        self.calls = state


def made(folder: Path, steps: int, *, accumulation: int = 1, memory: Counter | None = None):
    """A loop over one parameter, and the parameter."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    accelerator = make_accelerator(cpu=True)
    optimizer = adamw([{"params": [weight], "factor": 1.0, "weight_decay": 0.0}], beta2=0.98)
    snapshots = Snapshots(folder / "state", accelerator, {"weight": weight}, memory=memory)
    pace = Pace(steps, save_every=2, validate_every=3, accumulation=accumulation)
    schedule = linear(optimizer, 0.1, steps, 0)
    loop = TrainingLoop(
        accelerator, None, [weight], optimizer, schedule, snapshots, Report(folder / "report.json", every=1), pace
    )
    return loop, weight


def squared(weight: torch.nn.Parameter, memory: Counter | None = None):
    def forward(step: int, number: int) -> Pass:
        if memory:
            memory.calls += 1
        return Pass((weight - step).square().sum(), {"number": float(number)}, pictures=3)

    return forward


def lines(folder: Path) -> list[dict[str, float]]:
    return json.loads((folder / "report.json").read_text())


def test_a_stopped_loop_ends_with_the_numbers_of_an_unbroken_one(tmp_path, caplog):
    caplog.set_level("INFO")
    whole, weight = made(tmp_path / "whole", 7, accumulation=2, memory=(counted := Counter()))
    whole.run(lambda first: squared(weight, counted))
    first, stopped = made(tmp_path / "stopped", 7, accumulation=2, memory=(before := Counter()))

    def stops(step: int, number: int) -> Pass:
        if (step, number) == (5, 1):
            raise KeyboardInterrupt
        return squared(stopped, before)(step, number)

    with pytest.raises(KeyboardInterrupt):
        first.run(lambda first: stops)
    assert "interrupted; the same command goes on after step 4" in caplog.text
    again, resumed = made(tmp_path / "stopped", 7, accumulation=2, memory=(after := Counter()))
    began = []
    again.run(lambda first: began.append(first) or squared(resumed, after))
    assert began == [4]
    assert torch.equal(weight, resumed)
    assert after.calls == counted.calls == 14
    assert [line["step"] for line in lines(tmp_path / "stopped")] == list(range(1, 8))
    assert [one.name for one in (tmp_path / "stopped" / "state").iterdir()] == ["0000007"]


def test_values_are_means_of_a_steps_passes_and_scores_come_when_they_are_due(tmp_path):
    loop, weight = made(tmp_path, 4, accumulation=2)
    loop.run(lambda first: squared(weight), lambda done: {"score": float(done)})
    report = lines(tmp_path)
    assert {line["number"] for line in report} == {0.5}
    assert report[0]["loss"] == 4.0
    assert [line.get("score") for line in report] == [None, None, 3.0, 4.0]
    assert [line["lr"] for line in report] == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_a_step_without_a_finite_gradient_is_skipped_and_too_many_stop_the_run(tmp_path, monkeypatch, caplog):
    def forward(weight: torch.nn.Parameter, bad: set[int]):
        # The loss is 0, its gradient is not finite.
        return lambda step, number: Pass((weight * 0.0).sqrt().sum() if step in bad else weight.sum(), {}, 1)

    loop, weight = made(tmp_path / "one", 3)
    loop.run(lambda first: forward(weight, {1}))
    assert "step 2: the gradient is not finite; the step is skipped" in caplog.text
    assert torch.isfinite(weight).all()
    monkeypatch.setattr(loop_module, "MOST_SKIPPED", 2)
    loop, weight = made(tmp_path / "all", 5)
    with pytest.raises(TrainingDiverged, match="step 3: the gradient has not been finite for 3 steps; lower the learn"):
        loop.run(lambda first: forward(weight, set(range(5))))


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path):
    loop, weight = made(tmp_path, 5)
    with pytest.raises(TrainingDiverged, match=r"step 4: the loss is nan, with a learning rate of 0.04; lower"):
        loop.run(lambda first: lambda step, number: Pass(weight.sum() * (torch.nan if step == 3 else 1.0), {}, 1))
    assert newest_snapshot(tmp_path / "state").name == "0000002"


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path):
    loop, weight = made(tmp_path, 2)

    def forward(step: int, number: int) -> Pass:
        loss = weight.sum()
        if step == 1:
            weight.data.fill_(torch.inf)
        return Pass(loss, {}, 1)

    with pytest.raises(TrainingDiverged, match="step 2: a weight is no longer finite; lower the learning rate"):
        loop.run(lambda first: forward)
    assert newest_snapshot(tmp_path / "state") is None


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda folder: (folder / "state.json").write_text("{"), "is damaged .*remove it to begin anew"),
        (
            lambda folder: (folder / "trained.safetensors").write_bytes(b"x"),
            "trained.safetensors is missing or damaged",
        ),
        (lambda folder: (folder / "optimizer.bin").unlink(), "is damaged, or an earlier release wrote it"),
        (lambda folder: (folder / "optimizer.bin").write_bytes(b"x"), "is damaged, or an earlier release wrote it"),
    ],
)
def test_a_snapshot_that_cannot_be_used_is_named(tmp_path, spoil, complaint):
    loop, weight = made(tmp_path, 2)
    loop.run(lambda first: squared(weight))
    spoil(tmp_path / "state" / "0000002")
    again, weight = made(tmp_path, 4)
    with pytest.raises(CheckpointError, match=complaint):
        again.run(lambda first: squared(weight))
