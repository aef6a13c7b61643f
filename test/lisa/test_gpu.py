"""What only a GPU can show. Skipped, with the reason, without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask

pytestmark = pytest.mark.gpu

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def test_a_gpu_answers_as_the_cpu_does() -> None:
    rgb = np.asarray(Image.open(GOLDEN / "wide.png").convert("RGB"))
    answers = {}
    for device in ("cpu", "cuda"):
        engine = load_engine(
            GOLDEN / "ckpt", device=device, precision="fp32", options={"vision_tower": str(GOLDEN / "clip-tiny")}
        )
        answers[device] = engine.ask(engine.encode(rgb), Ask("the cup"), details=True)
    assert answers["cuda"].text == answers["cpu"].text
    masks = {device: answer.details["mask_logits"] > 0 for device, answer in answers.items()}  # (S, H, W)
    assert np.mean(masks["cuda"] == masks["cpu"]) > 0.99
