"""``recipe: choose_small``: what chooses among the demo model's own proposals, with the demo model left as it is.

Trained side by side, on the same states of ``[SEG]``: LLM-Seg's selector, by LLM-Seg's losses, and a pointer at cells.
The states are read once, so that a run takes minutes. A run that was stopped begins anew.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from lisa_ros.atomic import replacing
from lisa_ros.data.picture import BadExample
from lisa_ros.data.scene_records import SceneRecord
from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.cells import CellPointer
from lisa_ros.extractive.choosing_engine import POINTER, SELECTOR
from lisa_ros.extractive.proposers.drawn import Drawn
from lisa_ros.extractive.proposers.proposer import Arrangement
from lisa_ros.extractive.resize import square_weights
from lisa_ros.extractive.selector import POOLING_SIDE, Selector, pooled_features
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.perception.packed_crops import packed
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import adamw, linear
from lisa_ros.training.selector_losses import share_loss, similarity_loss
from lisa_ros.training.settings import build, check_positive
from lisa_small.extractor import BASE, base_folder
from lisa_small.scenes.commands import conversations_for
from lisa_small.training.dialogue import Speech
from lisa_small.training.language import Library
from lisa_small.training.model import QUESTIONS
from lisa_small.training.packing import Cells, pack, read_packed, states_at
from lisa_small.training.scenes import read_scene

log = logging.getLogger(__name__)

SHOWN = 0.02
"""Share of a cell that things cover, below which the pointer is not trained on it."""


@dataclass(frozen=True)
class ChooseRecipe:
    """A recipe, as its yaml says.

    Args:
        data: Folder of `lisa scenes`.
        out: Folder of the run, for ``selector.safetensors`` and ``cells.safetensors``.
        start: Folder of a finished small model; lisa-small for the bundled one.
        conversations: About each picture.
        kinds: Kind of conversation -> weight; None: the supply's own.
        epochs: Passes over the states.
        pictures: Of a step.
        lr: Learning rate after the warm-up; it falls to 0 in a line.
        warmup: Steps in which the learning rate rises.
        weight_decay: AdamW's.
        validation: The first scenes, so many, are not trained on.
        threads: Of torch.
        limit: Largest number of scenes; None: all.
        seed: Of everything random.
    """

    data: str
    out: str
    start: str = BASE
    conversations: int = 16
    kinds: dict[str, float] | None = None
    epochs: int = 30
    pictures: int = 16
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.05
    validation: int = 60
    threads: int = 1
    limit: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "conversations", "epochs", "pictures", "lr", "warmup", "validation", "threads")


@dataclass(eq=False)
class Picture:
    """A picture with its proposals, its objects, and what commands about it mean.

    Args:
        features: (N, F) mean image embedding under each proposal.
        tokens: (K, H) image tokens, float16.
        inside: (N, O) pixels of each object in each proposal.
        areas: (N,) pixels of each proposal.
        objects: (O,) pixels of each object.
        cells: (O, K) share of each cell that each object covers.
        prompts: (S, C) embeddings of ``[SEG]``.
        meant: (S, O) bool, the objects of each.
    """

    features: Tensor
    tokens: Tensor
    inside: Tensor
    areas: Tensor
    objects: Tensor
    cells: Tensor
    prompts: Tensor
    meant: Tensor

    @property
    def shares(self) -> Tensor:
        """(S, N): share of each proposal that belongs to what is meant."""
        return (self.meant.float() @ self.inside.T) / self.areas

    @property
    def ious(self) -> Tensor:
        """(S, N): IoU of each proposal with what is meant."""
        inside = self.meant.float() @ self.inside.T
        return inside / (self.areas + (self.meant.float() @ self.objects)[:, None] - inside)


class Reader:
    """Reads pictures and conversations with a finished model.

    Args:
        folder: Of the model.
        recipe: Of the run.
    """

    def __init__(self, folder: Path, recipe: ChooseRecipe):
        self._segmenter = Segmenter.from_checkpoint(folder, device="cpu", precision="fp32")
        self.lisa, spec = self._segmenter.lisa, self._segmenter.spec
        self._drawn = Drawn(self._segmenter)
        self._speech = Speech(self._segmenter.tokenizer, template(spec.conversation), QUESTIONS)
        self._classes = {name: number for number, name in enumerate(spec.classes)}
        self._grid = round(self.lisa.vision_tower.num_tokens**0.5)
        self._recipe, self._rng = recipe, random.Random(recipe.seed)

    def pictures(self, records: list[SceneRecord], split: str) -> Iterator[Picture]:
        """Scenes of the recipe's folder. What cannot be read is named and left out, as is a picture without proposals.

        Args:
            records: Lines of scenes.jsonl.
            split: Of the phrases, train or test.
        """
        for record in tqdm(records, f"reading ({split})", unit="scene", disable=None):
            try:
                picture = self._picture(Path(self._recipe.data), record, split)
            except BadExample as error:
                log.warning("scene %s is skipped: %s", record["id"], error)
                continue
            if picture is not None:
                yield picture

    @torch.no_grad()
    def _picture(self, folder: Path, record: SceneRecord, split: str) -> Picture | None:
        rgb, ids = read_pair(folder, record)
        image = self._segmenter.encode(rgb)
        proposals = Arrangement().of(self._drawn.propose(image))  # without empty masks, of which no share can belong
        crops = packed(proposals)
        scene = read_scene(folder, record, self.lisa.input_size)
        library = Library([scene], self._classes, self._speech, conversations_for, self.lisa.input_size, self._grid)
        objects = sorted(library.cells[0].parts)
        tokens, embedding = image.features.tokens[0], image.features.embedding
        assert embedding is not None
        prompts, targets = self._states(library, tokens, split)
        if not targets or not len(crops):
            return None
        windows = [ids[c.y : c.y + c.height, c.x : c.x + c.width][c.pixels > 0] for c in crops]
        counts = np.array([np.bincount(window, minlength=256) for window in windows], np.float32)
        weights = square_weights(crops, image.size, POOLING_SIDE)
        return Picture(
            pooled_features(embedding[0].flatten(1).T, weights),
            tokens.half(),
            torch.from_numpy(counts[:, objects]),
            torch.from_numpy(counts.sum(1)),
            torch.from_numpy(np.bincount(ids.ravel(), minlength=256)[objects].astype(np.float32)),
            covered_cells(library.cells[0], objects, self._grid),
            prompts,
            torch.tensor([[one in wanted for one in objects] for wanted in targets]),
        )

    def _states(self, library: Library, tokens: Tensor, split: str) -> tuple[Tensor, list[list[int]]]:
        """Embeddings (S, C) of ``[SEG]`` of fresh conversations, and the objects of each."""
        recipe = self._recipe
        _, suffixes = library.draw(1, recipe.conversations, self._rng, kinds=recipe.kinds, split=split)
        shown = torch.arange(len(tokens)), tokens.float()
        batch = pack(self.lisa, self._speech, [shown] * len(suffixes), suffixes, len(tokens))
        hidden = read_packed(self.lisa, batch)[-1]
        rows, at, targets = zip(*batch.segs, strict=True) if batch.segs else ((), (), ())
        states = states_at(hidden, list(rows), list(at)) if targets else hidden[0, :0]
        return self.lisa.seg_projector(states).float(), list(targets)


def covered_cells(cells: Cells, objects: list[int], grid: int) -> Tensor:
    """(O, grid * grid): the share of each cell that each object covers."""
    covered = [cells.parts[one] * cells.places[one][2] * grid**2 for one in objects]
    return torch.stack(covered) if covered else torch.zeros(0, grid**2)


def selector_loss(selector: Selector, picture: Picture) -> Tensor:
    """LLM-Seg's two losses of a picture, the mean over its states."""
    features = selector.project(picture.features)
    similarity, shares = selector.select(picture.prompts, features)
    return (similarity_loss(similarity, picture.ious) + share_loss(shares, picture.shares)).mean()


def pointer_loss(pointer: CellPointer, picture: Picture) -> Tensor:
    """Cross-entropy of a picture's cells. True is the share of what a cell shows that is meant; its weight is the share
    of the cell that shows something."""
    shown = picture.cells.sum(0)  # (K,)
    there = shown > SHOWN
    logits = pointer(picture.prompts, picture.tokens[there].float())
    meant = (picture.meant.float() @ picture.cells[:, there]) / shown[there]
    weights = (shown[there] / shown[there].sum())[None].expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits, meant.clamp(0, 1), weights, reduction="sum") / len(logits)


def train(configuration: Mapping[str, Any]) -> int:
    """Run ``recipe: choose_small``.

    Raises:
        ConfigError: A setting or the data cannot be used.
    """
    recipe = build(ChooseRecipe, {name: value for name, value in configuration.items() if name != "recipe"})
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    records = read_records(Path(recipe.data))[: recipe.limit]
    if len(records) <= recipe.validation:
        raise ConfigError(f"{recipe.data} has {len(records)} scenes; more than {recipe.validation} are needed")
    reader = Reader(base_folder(recipe.start), recipe)
    held_out = list(reader.pictures(records[: recipe.validation], "test"))
    pictures = list(reader.pictures(records[recipe.validation :], "train"))
    if not pictures or not held_out:
        raise ConfigError(f"{recipe.data} has no scene with things that the model sees; render others")
    folder = Path(recipe.out)
    folder.mkdir(parents=True, exist_ok=True)
    some = pictures[0]
    width, features = some.prompts.shape[1], some.features.shape[1]
    selector = Selector(width, inner=4 * width, iou_inner=width, embedding_inner=4 * width, features=features)
    pointer = CellPointer(width, some.tokens.shape[1])
    fit(selector, pointer, pictures, held_out, recipe)
    for name, module in ((SELECTOR, selector), (POINTER, pointer)):
        save(module, folder / name)
    print(f"trained; try it with: lisa segment PICTURE COMMAND --option family=llm-seg selector={folder / SELECTOR}")
    return 0


def fit(
    selector: Selector, pointer: CellPointer, pictures: list[Picture], held_out: list[Picture], recipe: ChooseRecipe
) -> None:
    """Train both. They share nothing but the steps."""
    steps = recipe.epochs * max(len(pictures) // recipe.pictures, 1)
    parameters = [*selector.parameters(), *pointer.parameters()]
    optimizer = adamw([{"params": parameters, "factor": 1.0, "weight_decay": recipe.weight_decay}], 0.99)
    schedule = linear(optimizer, recipe.lr, steps, min(recipe.warmup, steps))
    rng, report = random.Random(recipe.seed), Report(Path(recipe.out) / "choose.json")
    for step in report.steps(0, steps):
        batch = rng.sample(pictures, min(recipe.pictures, len(pictures)))
        losses = {
            "selector": torch.stack([selector_loss(selector, one) for one in batch]).mean(),
            "cells": torch.stack([pointer_loss(pointer, one) for one in batch]).mean(),
        }
        optimizer.zero_grad()
        (losses["selector"] + losses["cells"]).backward()
        for module in (selector, pointer):
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        report.add({name: float(loss.detach()) for name, loss in losses.items()}, len(batch))
        if report.due(step + 1):
            report.write(step + 1, validate(selector, pointer, held_out))


@torch.no_grad()
def validate(selector: Selector, pointer: CellPointer, pictures: list[Picture]) -> dict[str, float]:
    """Losses of held-out pictures, and how often the most similar proposal is within 0.02 of the best one's IoU."""
    right: list[Tensor] = []
    for one in pictures:
        similarity, _ = selector.select(one.prompts, selector.project(one.features))
        chosen = one.ious.gather(1, similarity.argmax(1, keepdim=True))[:, 0]
        right.append(chosen > one.ious.amax(1) - 0.02)
    return {
        "held out selector": float(torch.stack([selector_loss(selector, one) for one in pictures]).mean()),
        "held out cells": float(torch.stack([pointer_loss(pointer, one) for one in pictures]).mean()),
        "most similar right": float(torch.cat(right).float().mean()),
    }


def save(module: nn.Module, file: Path) -> None:
    """Write the tensors in half precision."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in module.state_dict().items()}
    with replacing(file) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
