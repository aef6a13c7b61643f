"""The parts on a GPU. Skipped, with the reason, without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from numpy.typing import NDArray

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("locator", ["qwen3_vl", "qwen2_5_vl", "grounding_dino", "clipseg", "sam3"])
def test_a_gpu_answers(locator: str, precision: str, tiny, rgb: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "locator").symlink_to(tiny(locator))
    (tmp_path / "cutter").symlink_to(tiny("sam2"))
    folder = tiny_models.recipe(tmp_path, {"model": "locator"}, {"model": "cutter"})
    options = {"box_threshold": 0.01, "max_objects": 2}
    engine = load_engine(folder, device="cuda", precision=precision, options=options)
    answer = engine.ask(engine.encode(rgb), Ask("the cup", max_new_tokens=20), details=True)
    assert engine.info.device.startswith("cuda")
    assert answer.details["mask_logits"].shape == (len(answer.regions), 480, 640)
    boxed = engine.ask(engine.encode(rgb), Ask(box=(64, 48, 256, 192)))
    assert boxed.found
