"""A model that computes NaN says so; it never says "not found"."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask
from lisa_ros.errors import NumericalError
from lisa_ros.lisa.weights.inspect import inspect
from lisa_small import model_folder

RGB = np.asarray(Image.open(Path(__file__).parents[2] / "demo" / "scene.jpg"))


def broken_model(folder: Path, tensor: str, value: float) -> Path:
    shutil.copytree(model_folder(), folder)
    weights = {name: one.clone() for name, one in load_file(folder / "model.safetensors").items()}
    weights[tensor].view(-1)[: (weights[tensor].numel() + 1) // 2] = value
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("tensor", "value"),
    [
        ("lm_head.weight", float("nan")),
        ("model.layers.2.mlp.down_proj.weight", float("inf")),
        ("model.presence.threshold", float("nan")),
        ("model.visual_model.image_encoder.stem.weight", float("nan")),
        ("model.visual_model.mask_decoder.mask_tokens.weight", float("nan")),
    ],
)
def test_nan_anywhere_is_an_error_that_names_the_precision(tmp_path: Path, tensor: str, value: float) -> None:
    folder = broken_model(tmp_path / "broken", tensor, value)
    engine = load_engine(folder, device="cpu", precision="fp32")
    with pytest.raises(NumericalError, match=r"not finite \(precision fp32\).*use precision bf16, or another"):
        engine.ask(engine.encode(RGB), Ask("the screwdriver", max_new_tokens=40))
    assert any(tensor in problem and "NaN or infinite" in problem for problem in inspect(folder).problems)


def test_masks_that_are_not_finite_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(device="cpu", precision="fp32")
    encoded = engine.encode(RGB)
    monkeypatch.setattr(
        engine.engine.grounding, "masks", lambda hidden, *others: torch.full((len(hidden), 1, 8, 8), float("nan"))
    )
    with pytest.raises(NumericalError, match="masks are not finite"):
        engine.ask(encoded, Ask("the screwdriver"))


def test_inspect_says_where_it_did_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lisa_ros.lisa.weights.inspect.SEARCHED_BYTES", 1000)
    report = inspect(model_folder())
    assert not report.problems
    assert any("not searched for NaN" in note for note in report.notes)
