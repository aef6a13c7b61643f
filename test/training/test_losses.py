"""LISA's losses against the reference's numbers and against what they should mean."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lisa_ros.training.losses import IGNORE, answer_loss, bce_per_mask, dice_per_mask, mask_losses

GOLDENS = Path(__file__).parents[1] / "golden" / "misc"


def test_mask_losses_are_the_references():
    arrays = np.load(GOLDENS / "losses.npz")
    expected = json.loads((GOLDENS / "losses.json").read_text())
    logits, targets = torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["targets"])
    bce, dice = mask_losses([logits], [targets])
    assert bce.item() == pytest.approx(expected["sigmoid_ce_loss"], abs=1e-4)
    assert dice.item() == pytest.approx(expected["dice_loss"], abs=1e-4)


def test_masks_count_equally_over_the_images_of_a_batch():
    logits = [torch.randn(1, 8, 8), torch.randn(3, 5, 9), torch.zeros(0, 4, 4)]
    targets = [(torch.rand_like(x) > 0.5).float() for x in logits]
    bce, dice = mask_losses(logits, targets)
    each = torch.cat([bce_per_mask(p, t) for p, t in zip(logits[:2], targets[:2], strict=True)])
    assert bce.item() == pytest.approx(each.mean().item(), abs=1e-6)
    assert 0 < dice.item() < 1


def test_a_batch_without_masks_costs_nothing():
    bce, dice = mask_losses([torch.zeros(0, 4, 4, requires_grad=True)], [torch.zeros(0, 4, 4)])
    assert bce.item() == 0 and dice.item() == 0


def test_a_missing_mask_is_an_error_and_not_a_shift():
    with pytest.raises(ValueError, match="1 predicted masks for 2"):
        mask_losses([torch.zeros(1, 4, 4)], [torch.zeros(2, 4, 4)])


def test_perfect_masks_have_no_dice_loss():
    target = torch.zeros(1, 20, 20)
    target[:, 3:9, 4:12] = 1
    assert dice_per_mask(target * 40 - 20, target).item() == pytest.approx(0, abs=1e-4)


def test_answer_loss_reads_only_answers_and_looks_one_ahead():
    logits = torch.zeros(1, 4, 5)
    logits[0, 1, 3] = 50.0
    labels = torch.tensor([[IGNORE, IGNORE, 3, IGNORE]])
    assert answer_loss(logits, labels).item() == pytest.approx(0, abs=1e-6)
    assert answer_loss(logits, torch.full_like(labels, IGNORE)).item() == 0
