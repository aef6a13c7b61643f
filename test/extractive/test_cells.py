"""Engine ``cells``: the state of [SEG] points at image tokens, and chooses the proposals under them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import read_rgb
from safetensors.torch import save_file

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Proposals
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.extractive.cells import CellPointer, Pointing
from lisa_ros.lisa.grounding import Features
from lisa_ros.lisa.segmenter import EncodedImage

ROOT = Path(__file__).parents[2]
SIZE = (40, 80)
"""(height, width) of a frame whose padded square has 4 x 4 cells of 20 pixels; the picture is the upper half."""


class Told(torch.nn.Module):
    """Points at cells as it is told, whatever the state is. probabilities: of the upper 8 cells."""

    def __init__(self, probabilities: list[float]):
        super().__init__()
        self.logits = torch.logit(torch.tensor([*probabilities, *[0.5] * 8]))[None]

    def forward(self, prompts: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        assert tokens.shape == (16, 3)
        return self.logits


def chosen(probabilities: list[float], boxes: list[tuple[int, int, int, int]], confidence: float = 1.0):
    """boxes: left, top, right and bottom of each proposal."""
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    proposals = Proposals(masks=masks)
    image = EncodedImage(np.zeros((*SIZE, 3), np.uint8), Features(torch.zeros(1, 16, 3)), None, 0.0)
    pointing = Pointing(Told(probabilities))  # type: ignore[arg-type]
    return pointing.choose(torch.zeros(5), confidence, proposals, pointing.prepare(image, proposals))


LEFT, RIGHT, WHOLE, EMPTY = (0, 0, 20, 20), (60, 0, 80, 20), (0, 0, 80, 40), (0, 0, 0, 0)


def test_the_proposals_under_pointed_cells_are_chosen_the_best_first() -> None:
    one = chosen([0.8, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1], [LEFT, WHOLE, RIGHT])
    assert one.indices == [2, 0]
    assert one.score == pytest.approx(0.85, abs=0.05)


def test_where_nothing_is_pointed_at_enough_the_best_one_is_chosen() -> None:
    one = chosen([0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [RIGHT, LEFT, EMPTY], confidence=0.5)
    assert one.indices == [1]
    assert one.score == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("boxes", [[], [EMPTY], [EMPTY, EMPTY]])
def test_without_a_mask_nothing_is_chosen(boxes) -> None:
    assert (chosen([0.9] * 8, boxes).indices, chosen([0.9] * 8, boxes).score) == ([], 0.0)


def test_a_pointer_compares_states_and_tokens() -> None:
    torch.manual_seed(0)
    pointer = CellPointer(5, 3, width=4)
    prompts, tokens = torch.randn(2, 5), torch.randn(7, 3)
    scores = pointer(prompts, tokens)
    assert scores.shape == (2, 7)
    expected = pointer.query(prompts)[1] @ pointer.key(tokens)[6] / math.sqrt(4)
    torch.testing.assert_close(scores[1, 6], expected)
    again = CellPointer.from_tensors(pointer.state_dict())
    assert torch.equal(again(prompts, tokens), scores)
    assert (again.channels, again.hidden_size) == (5, 3)


# --- on the demo model


@pytest.fixture(scope="module")
def pointer_file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("cells") / "cells.safetensors"
    save_file(CellPointer(96, 192).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def engine(pointer_file) -> SupportedEngine:
    return load_engine(device="cpu", options={"family": "cells", "pointer": str(pointer_file)})


@pytest.mark.weights
def test_the_region_is_what_the_pointer_chose(engine) -> None:
    """The pointer is not trained: any choice is right, as long as it is the pointer's."""
    encoded = engine.encode(read_rgb(ROOT / "demo/scene.jpg"))
    answer = engine.ask(encoded, Ask("the screwdriver"), details=True)
    (ids,) = answer.details["proposal_ids"]
    proposals = engine.proposals(encoded)
    assert ids
    assert answer.regions[0].mask.area <= sum(proposals.crops[index].area for index in ids)
    assert 0 <= answer.regions[0].score <= 1
    assert not engine.ask(encoded, Ask("the umbrella")).found


@pytest.mark.weights
@pytest.mark.parametrize("count", [0, 1, 2000])
def test_any_number_of_proposals(engine, count) -> None:
    rgb = read_rgb(ROOT / "demo/scene.jpg")
    masks = np.zeros((count, *rgb.shape[:2]), bool)
    for number, mask in enumerate(masks):
        mask[number % 400 : number % 400 + 40, number % 600 : number % 600 + 30] = True
    answer = engine.ask(engine.encode(rgb), Ask("the screwdriver", proposals=Proposals(masks=masks)))
    assert answer.found == (count > 0)


@pytest.mark.weights
def test_a_pointer_that_cannot_be_used_is_named(tmp_path, pointer_file) -> None:
    def load(file: Path, model: str = "") -> None:
        load_engine(model, device="cpu", options={"family": "cells", "pointer": str(file)})

    with pytest.raises(CheckpointError, match=r"there is no pointer at cells in .*choose_small"):
        load(tmp_path / "none.safetensors")
    save_file({"query.0.weight": torch.zeros(2, 3)}, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match=r"no pointer at cells: 'key\.0\.weight'"):
        load(tmp_path / "half.safetensors")
    save_file(CellPointer(96, 64).state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"compares 96 with 64 numbers, .* has 96 and 192"):
        load(tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="show its middle"):
        load(pointer_file, str(ROOT / "test/golden/ckpt"))
