"""Optimizer and learning rates of a training run: AdamW, and schedules of transformers' ``get_scheduler``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol, TypedDict

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, SequentialLR
from transformers import get_scheduler


class ParameterGroup(TypedDict):
    """A group of AdamW. ``factor``: its learning rate, relative to the schedule's."""

    params: list[nn.Parameter]
    factor: float
    weight_decay: float


class Phase(Protocol):
    """Part of a schedule: ``steps``, and the learning rate from its peak ``lr`` down to ``lr_end``."""

    @property
    def steps(self) -> int: ...

    @property
    def lr(self) -> float: ...

    @property
    def lr_end(self) -> float: ...


def adamw(groups: Sequence[ParameterGroup], beta2: float) -> AdamW:
    """AdamW with beta1 0.9. Its learning rates are set by one of the schedules below."""
    return AdamW([dict(group) for group in groups], betas=(0.9, beta2))


def linear(optimizer: Optimizer, lr: float, steps: int, warmup: int) -> LRScheduler:
    """Linear warm-up from 0 to ``lr`` in ``warmup`` steps, then linear decay to 0 at ``steps``."""
    _set_peak(optimizer, lr)
    return get_scheduler("linear", optimizer, num_warmup_steps=warmup, num_training_steps=steps)


def cosine(optimizer: Optimizer, phases: Sequence[Phase], warmup: int) -> LRScheduler:
    """A half cosine in each phase, one phase after the other.

    Args:
        optimizer: Its groups have a ``factor`` of the learning rate each (1 if there is none).
        phases: One or more.
        warmup: Steps of linear warm-up at the beginning of the first phase.
    """
    _set_peak(optimizer, phases[0].lr)
    parts = []
    for number, phase in enumerate(phases):
        part = get_scheduler(
            "cosine_warmup_with_min_lr",
            optimizer,
            num_warmup_steps=0 if number else warmup,
            num_training_steps=phase.steps,
            scheduler_specific_kwargs={"min_lr_rate": phase.lr_end / phase.lr},
        )
        part.base_lrs = [phase.lr * group.get("factor", 1.0) for group in optimizer.param_groups]
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    return SequentialLR(optimizer, parts, milestones=list(accumulate(phase.steps for phase in phases[:-1])))


def current_rate(optimizer: Optimizer) -> float:
    """The learning rate of the next step, for a group of factor 1."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / group.get("factor", 1.0)


def _set_peak(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)
