"""The same losses and gradients as ELISA's reference (test/golden/README.md)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from goldens import read_rgb
from tiny_elisa import ELISA, PREFIX
from torch import Tensor

from lisa_ros.extractive.model.llava import Elisa
from lisa_ros.extractive.weights import load_elisa, read_spec, reference_adapter_name
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.preprocess import for_clip
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_ros.lisa.weights.spec import read_clip
from lisa_ros.training.extract_objective import ExtractBatch, ReferenceLoss
from lisa_ros.training.losses import IGNORE

CASES: dict[str, Any] = json.loads((ELISA / "cases.json").read_text("utf-8"))
TRAIN: list[dict[str, Any]] = CASES["train"]
every_step = pytest.mark.parametrize("case", TRAIN, ids=[case["name"] for case in TRAIN])


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(ELISA / "train.npz") as file:
        return dict(file)


@pytest.fixture
def model() -> Elisa:
    cpu = torch.device("cpu")
    return load_elisa(read_spec(ELISA), CASES["image_token_id"] + 1, Precision.pick("fp32", cpu), cpu)


def owners(case: dict[str, Any]) -> list[int]:
    """Positives of sample 0, of sample 1, then negatives of both."""
    return [sample for counts in (case["n_pos"], case["n_neg"]) for sample, n in enumerate(counts) for _ in range(n)]


def batch_of(case: dict[str, Any], arrays: dict[str, np.ndarray]) -> ExtractBatch:
    ids = torch.from_numpy(arrays[f"{case['name']}.input_ids"])
    clip = read_clip(ELISA / "llava").preprocessing
    pixels = [torch.from_numpy(for_clip(read_rgb(ELISA / f"images/image{n}.png"), clip)) for n in (0, 1)]
    return ExtractBatch(
        pixels=torch.stack(pixels),
        embeddings=torch.from_numpy(arrays["embeddings"]),
        ids=ids.masked_fill(ids == CASES["image_token_id"], IMAGE_ID),
        attended=torch.from_numpy(arrays[f"{case['name']}.attention_mask"])[:, : ids.shape[1]] > 0,
        labels=torch.full_like(ids, IGNORE),
        owner=torch.tensor(owners(case)),
    )


def lora_norm(model: Elisa) -> float:
    """Norm of the gradients of all A and B, from those of the merged weights W + 2 B A."""
    tensors = torch.load(ELISA / "models/tiny.pth", weights_only=True)
    weights = {name.replace("vision_tower.vision_model.", "vision_tower."): p for name, p in model.named_parameters()}
    total = 0.0
    for name, down in tensors.items():
        if not name.endswith(".lora_A.default.weight"):
            continue
        layer = name.removeprefix(PREFIX).removesuffix(".lora_A.default.weight")
        layer = layer.replace("language_model.model.", "language_model.").replace("vision_model.", "")
        up = tensors[name.replace("lora_A", "lora_B")]
        grad = weights[f"{layer}.weight"].grad
        if grad is None:  # of the tower's last layer, whose features nobody reads
            continue
        total += float((2 * grad @ down.T).square().sum() + (2 * up.T @ grad).square().sum())
    return total**0.5


@every_step
def test_loss_and_gradients_are_the_references(
    model: Elisa, case: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    name = case["name"]
    model.requires_grad_(True)
    labels = torch.from_numpy(arrays[f"{name}.label_ids"])
    loss, logits, rows = ReferenceLoss()(model, batch_of(case, arrays), labels, CASES["pad_id"], case["n_pos_total"])
    rows.retain_grad()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(case["loss"], rel=1e-5)
    if f"{name}.logits_masked" in arrays:
        expected = arrays[f"{name}.logits_masked"]
        np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=0, atol=2e-4)
    assert_close(rows.grad, arrays[f"{name}.row_grads"])
    gradients = {reference_adapter_name(n): p.grad for n, p in model.adapter.named_parameters()}
    for ours, norm in case["grad_norm_adapter"].items():
        gradient = gradients[ours]
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3)
        assert_close(gradient.flatten()[:512], arrays[f"{name}.grad_adapter.{ours}"].ravel())
    assert lora_norm(model) == pytest.approx(case["grad_norm_lora_total"], rel=1e-3)


def assert_close(ours: Tensor | None, theirs: np.ndarray) -> None:
    """Within 0.001 of the largest entry."""
    assert ours is not None
    np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=0, atol=1e-3 * np.abs(theirs).max())
