"""LISA's losses, as the reference computes them. float32 in, a scalar out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100
"""Label of a token that is read but not trained."""


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token over all trained tokens: logits (N, L, V), labels (N, L) with IGNORE elsewhere.

    0 where a batch trains no token.
    """
    predicted, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    if not (targets != IGNORE).any():
        return logits.sum() * 0.0
    return F.cross_entropy(predicted.float(), targets, ignore_index=IGNORE)


def bce_per_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of each mask: (S, h, w) logits and targets in [0, 1] to (S,)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(1)


def dice_per_mask(logits: Tensor, targets: Tensor, scale: float = 1000.0, eps: float = 1e-6) -> Tensor:
    """1 - Dice of each mask: (S, h, w) logits and targets in [0, 1] to (S,).

    The sums are divided by ``scale`` as in the reference, which keeps them in the range of half precision.
    """
    p, t = logits.sigmoid().flatten(1), targets.flatten(1)
    overlap = 2.0 * (p / scale * t).sum(1)
    return 1.0 - (overlap + eps) / ((p / scale).sum(1) + (t / scale).sum(1) + eps)


def mask_losses(logits: list[Tensor], targets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """BCE and Dice averaged over all masks of a batch; each list item is an image's (S, h, w). 0 without a mask."""
    count = sum(len(t) for t in targets)
    if sum(len(p) for p in logits) != count:
        raise ValueError(f"{sum(len(p) for p in logits)} predicted masks for {count} true ones")
    pairs = [(p, t) for p, t in zip(logits, targets, strict=True) if len(t)]
    if not pairs:
        zero = sum((p.sum() for p in logits), torch.zeros(())) * 0.0
        return zero, zero
    bce = torch.cat([bce_per_mask(p, t) for p, t in pairs]).sum() / (count + 1e-8)
    dice = torch.cat([dice_per_mask(p, t) for p, t in pairs]).sum() / (count + 1e-8)
    return bce, dice
