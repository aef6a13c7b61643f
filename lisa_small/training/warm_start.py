"""Going on from a finished small model: what its checkpoint holds, as the stages of training want it.

A checkpoint has no prompts for classes: stage 1 learned them and stage 2 taught ``[SEG]`` to say them. They are got
back by asking: over pictures made of words, the embedding of ``[SEG]`` is, but for a small error, the sum of the
prompts of the classes that are meant and of a place. Least squares takes the sum apart.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from lisa_ros.errors import ConfigError
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.spec import read_spec
from lisa_small.network.conv import bias_of
from lisa_small.network.tower import tower_of
from lisa_small.training.language import Library, seg_truth
from lisa_small.training.packing import pack, read_packed, states_at, word_tokens
from lisa_small.training.vision import VisionModel

log = logging.getLogger(__name__)

RIDGE = 1e-3
"""Of the least squares, for each answer that was asked for."""

BEST_OF_MANY = 4.0
"""By how much the best of all cells leans to a class that is not there: without it the loss of presence begins at 31
instead of 7, and outweighs all others."""


def load_finished(folder: Path, lisa: Lisa) -> None:
    """Give ``lisa`` the tensors of the checkpoint in ``folder``; its picture may be of another size, and ``lisa`` may
    have more units in its MLPs: it begins with the same answers.

    Raises ConfigError where the checkpoint is of other sizes, CheckpointError where it cannot be read.
    """
    theirs, mine = read_spec(folder).llama.intermediate_size, lisa.llama.config.intermediate_size
    if theirs > mine:
        raise ConfigError(f"{folder} has MLPs of {theirs} units, the recipe's have {mine}; say {theirs} or more there")
    with torch.no_grad():
        finished, _ = load_lisa(folder, None, Precision.pick("fp32", torch.device("cpu")), torch.device("cpu"))
        state = dict(finished.state_dict())
        merge = "vision_tower.merge.weight"
        state[merge] = _resized_kernel(state[merge], tower_of(lisa).side)
        own = lisa.state_dict()
        mlps = [name for name in own if name.startswith("llama.layers.") and ".mlp." in name and name in state]
        state |= {name: _widened(name, state[name], own[name]) for name in mlps}
        other = [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]
        if other:
            tensors = f"{other[0]}, {len(other)} tensors in all"
            raise ConfigError(f"{folder} is of other sizes than the recipe, or of an older release ({tensors})")
        lisa.load_state_dict(state, strict=False)


def _resized_kernel(kernel: Tensor, side: int) -> Tensor:
    """A kernel (O, C, k, k) that averages over cells, for ``side`` x ``side`` cells in the place of k x k."""
    if kernel.shape[-1] == side:
        return kernel
    return F.interpolate(kernel, (side, side), mode="bilinear") * (kernel.shape[-1] / side) ** 2


def _widened(name: str, weight: Tensor, like: Tensor) -> Tensor:
    """The weight of an MLP with as many units as ``like`` has, where that is more; what they say begins at 0, so that
    the model answers as before (the idea of Chen, Goodfellow and Shlens, "Net2Net", 2016). The new units are the same
    for all who ask, so that widened models can be averaged. A weight of another width comes back as it is."""
    across = 1 if name.endswith("down_proj.weight") else 0
    more = like.shape[across] - weight.shape[across]
    if more <= 0 or like.shape[1 - across] != weight.shape[1 - across]:
        return weight
    fresh = torch.zeros(weight.shape[0], more) if across else torch.empty(more, weight.shape[1])
    if not across:
        chance = torch.Generator().manual_seed(crc32(name.encode()))
        fresh.normal_(std=float(weight.std()), generator=chance)
    return torch.cat([weight, fresh], across)


@torch.no_grad()
def recover_recognition(lisa: Lisa, vision: VisionModel) -> None:
    """Set what ``vision`` recognises in cells to what ``lisa`` does, and whether a class is there to its best cell."""
    recognition, _ = tower_of(lisa).reader
    vision.recognition.load_state_dict(recognition.state_dict())
    cell = vision.recognition.cell_class
    vision.presence.weight.copy_(cell.weight[1:] - cell.weight[:1])
    bias = bias_of(cell)
    bias_of(vision.presence).copy_(bias[1:] - bias[0] - BEST_OF_MANY)


@torch.no_grad()
def recover_prompts(lisa: Lisa, library: Library, vision: VisionModel, steps: int = 16, seed: int = 0) -> float:
    """Set the prompts of ``vision`` to those that ``lisa`` says over pictures made of words. Returns the mean squared
    error that is left."""
    prompts, features = [], []
    for step in range(steps):
        rng = random.Random(f"{seed}/{step}")
        numbers, suffixes = library.draw(8, 12, rng)
        cells_of_each = [library.cells[number] for number in numbers]
        images = [(cells.index, word_tokens(lisa, cells, cells.index)) for cells in cells_of_each]
        packed = pack(lisa, library.speech, images, suffixes, library.grid**2)
        hidden = read_packed(lisa, packed)[-1]
        scenes = [library.scenes[number] for number in numbers]
        classes, places, single = seg_truth(packed.segs, scenes, cells_of_each, library.class_index)
        states = states_at(hidden, [row for row, _, _ in packed.segs], [at for _, at, _ in packed.segs])
        prompts.append(lisa.seg_projector(states) - vision.place(places) * single[:, None])
        features.append(classes)
    x, y = torch.cat(features).double(), torch.cat(prompts).double()
    solved = torch.linalg.solve(x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1]), x.T @ y).float()
    vision.class_prompts.weight.copy_(solved)
    return float(F.mse_loss(x.float() @ solved, y.float()))
