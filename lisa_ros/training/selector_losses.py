"""The losses of LLM-Seg's selector (lisa_ros.extractive.selector).

Shapes: C conversations about one picture, K proposals.
Paper: Wang and Ke, LLM-Seg, arXiv:2404.08767; reference: wangjunchi/LLMSeg 65147a98.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WIDTH = 0.05
"""Temperature of both sides of the similarity loss."""

SHARE_WEIGHT = 50.0
"""Of the loss of shares, beside the similarity loss."""


def similarity_loss(similarity: Tensor, ious: Tensor) -> Tensor:
    """How far the similarities are from the IoUs, both as distributions over the proposals.

    Args:
        similarity: (C, K) in [-1, 1].
        ious: (C, K) in [0, 1], of each proposal with what is meant.

    Returns:
        (C,) Kullback-Leibler divergence. Where every IoU is 0, the target is uniform: absence is not learned by it.
    """
    predicted = (similarity / WIDTH).log_softmax(dim=1)
    return F.kl_div(predicted, (ious / WIDTH).softmax(dim=1), reduction="none").sum(dim=1)


def share_loss(predicted: Tensor, shares: Tensor) -> Tensor:
    """How far the predicted shares are from the true ones; an error at a proposal that belongs counts most.

    Args:
        predicted: (C, K) in [0, 1].
        shares: (C, K) in [0, 1], intersection over the proposal (IoP).

    Returns:
        (C,) weighted squared error, times ``SHARE_WEIGHT``.
    """
    return SHARE_WEIGHT * ((shares - 1).exp() * (predicted - shares).square()).mean(dim=1)
