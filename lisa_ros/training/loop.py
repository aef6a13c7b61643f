"""The training loop of every recipe: steps, gradient accumulation, clipping, schedule, report and snapshots.

What a step sees must follow from the seed and the step's number alone. Then a run that was killed and started again
computes the same numbers as one that was not.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lisa_ros.errors import ConfigError, TrainingDiverged
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import current_rate
from lisa_ros.training.snapshot import Snapshots

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

MOST_SKIPPED = 100
"""Steps in a row without a finite gradient, after which a run stops. A gradient scaler of fp16 needs about 20."""


@dataclass(frozen=True)
class Pace:
    """How a loop goes.

    Args:
        steps: Of the optimizer.
        save_every: Steps between snapshots.
        validate_every: Steps between validations.
        accumulation: Forward and backward passes of one step.
        clip_norm: Largest norm of the gradient.
    """

    steps: int
    save_every: int
    validate_every: int
    accumulation: int = 1
    clip_norm: float = 1.0


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass: the loss, what else to report (numbers or scalar tensors), and how many pictures it saw."""

    loss: Tensor
    values: Mapping[str, Tensor | float]
    pictures: int


Forward = Callable[[int, int], Pass]
"""The step's number, from 0, and the number of the pass within it -> the pass."""


def make_accelerator(**options: Any) -> Accelerator:
    """accelerate's ``Accelerator``.

    Raises:
        ConfigError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise ConfigError("training needs accelerate; install it with \"pip install 'lisa_ros[train]'\"") from error
    # Our schedules count steps of the optimizer, whatever the number of processes.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]  # a step without a mask trains no decoder
    return Accelerator(step_scheduler_with_optimizer=False, kwargs_handlers=handlers, **options)


class TrainingLoop:
    """One run of one optimizer.

    Args:
        accelerator: Knows the devices, the other processes and the precision.
        model: What is wrapped for several devices; None where nothing is.
        parameters: All that is trained.
        optimizer: Over ``parameters``; prepared here.
        schedule: Of its learning rate, one step for each step of the optimizer; prepared here.
        snapshots: From which a stopped run resumes.
        report: Told of every step.
        pace: How many steps, and what happens after how many.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module | None,
        parameters: Sequence[nn.Parameter],
        optimizer: Optimizer,
        schedule: LRScheduler,
        snapshots: Snapshots,
        report: Report,
        pace: Pace,
    ) -> None:
        self._accelerator, self._model, self._parameters = accelerator, model, list(parameters)
        self._optimizer = accelerator.prepare_optimizer(optimizer)
        self._schedule = accelerator.prepare_scheduler(schedule)
        self._snapshots, self._report, self._pace = snapshots, report, pace
        self._skipped = 0

    def run(
        self, begin: Callable[[int], Forward], validate: Callable[[int], Mapping[str, float]] | None = None
    ) -> None:
        """Take all steps that are left.

        Args:
            begin: Called once with the number of steps that are done; returns the forward pass.
            validate: Called with the number of steps that are done; returns scores for the report.

        Raises:
            TrainingDiverged: The loss or a weight is not finite.
            CheckpointError: The last snapshot cannot be used.
        """
        first, processes = self._snapshots.resume()
        if first:
            log.info("going on after step %d", first)
        if processes != self._accelerator.num_processes:
            log.warning(
                "the run had %d processes and has %d now; from here on it sees other pictures",
                *(processes, self._accelerator.num_processes),
            )
        pace, forward, saved = self._pace, begin(first), first
        try:
            for step in self._report.steps(first, pace.steps):
                self._report.add(*self._one_step(step, forward))
                done = step + 1
                last = done == pace.steps
                scores: Mapping[str, float] = {}
                if validate is not None and (last or done % pace.validate_every == 0):
                    scores = validate(done)
                if scores or self._report.due(done):
                    self._report.write(done, scores)
                if last or done % pace.save_every == 0:
                    self._check_weights(done)
                    self._snapshots.save(done)
                    saved = done
        except KeyboardInterrupt:
            log.info("interrupted; the same command goes on after step %d", saved)
            raise

    def _one_step(self, step: int, forward: Forward) -> tuple[dict[str, float], int]:
        """Values to report, and how many pictures this process saw."""
        accelerator, count = self._accelerator, self._pace.accumulation
        names: list[str] = []
        sums, pictures = torch.zeros((), device=accelerator.device), 0
        for number in range(count):
            # Only the last pass of a step needs the other processes' gradients.
            alone = self._model is not None and number + 1 < count
            with accelerator.no_sync(self._model) if alone else nullcontext():
                one = forward(step, number)
                accelerator.backward(one.loss / count)
            values = {"loss": one.loss, **one.values}
            names, pictures = list(values), pictures + one.pictures
            sums = sums + torch.stack([_scalar(value, accelerator.device) for value in values.values()]) / count
        means = dict(zip(names, accelerator.reduce(sums, "mean").tolist(), strict=True))
        rate = current_rate(self._optimizer)
        if not math.isfinite(means["loss"]):
            raise TrainingDiverged(
                f"step {step + 1}: the loss is {means['loss']}, with a learning rate of {rate:.3g}; lower the learning "
                "rate, lengthen the warm-up, or use bf16 or fp32 in place of fp16"
            )
        norm = accelerator.clip_grad_norm_(self._parameters, self._pace.clip_norm)
        self._update(step, bool(torch.isfinite(norm)))
        return {**means, "gradient_norm": float(norm), "lr": rate}, pictures * accelerator.num_processes

    def _update(self, step: int, finite: bool) -> None:
        self._skipped = 0 if finite else self._skipped + 1
        if self._skipped > MOST_SKIPPED:
            raise TrainingDiverged(
                f"step {step + 1}: the gradient has not been finite for {self._skipped} steps; lower the learning "
                "rate, or use bf16 or fp32 in place of fp16"
            )
        if not finite:
            log.warning("step %d: the gradient is not finite; the step is skipped", step + 1)
        if finite or self._accelerator.scaler is not None:  # a scaler skips the step itself, and lowers its scale
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()

    def _check_weights(self, done: int) -> None:
        """Nothing that is not finite is saved."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self._parameters):
            raise TrainingDiverged(
                f"step {done}: a weight is no longer finite; lower the learning rate (it is "
                f"{current_rate(self._optimizer):.3g}) or lengthen the warm-up; the last snapshot is unharmed"
            )


def _scalar(value: Tensor | float, device: torch.device) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float32, device=device).detach()
