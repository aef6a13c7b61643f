"""Stage 1: image encoder and mask decoder, before there is a language model.

The mask decoder is prompted by a learned vector for each class: the place that the embedding of ``[SEG]`` will take.
A class and a colour for every cell hang on the image embedding, which the image tower says to the language model later,
and, during training only, whether a class is there.
Trained alone, without sentences, seeing and drawing are learned an order of magnitude faster than end to end.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import SamModel

from lisa_ros.atomic import replacing
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.model.mask_decoder import decode_and_look
from lisa_ros.lisa.model.sam import image_positions
from lisa_ros.training.loop import Pace, Pass, TrainingLoop, make_accelerator
from lisa_ros.training.losses import bce_per_mask, dice_per_mask
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import ParameterGroup, adamw, cosine
from lisa_ros.training.settings import check_positive, check_shares
from lisa_ros.training.snapshot import Snapshots
from lisa_small.network.conv import ConvImageEncoder, bias_of
from lisa_small.network.tower import Recognition
from lisa_small.scenes.colours import COLOURS
from lisa_small.training.augment import (
    Sample,
    Square,
    camera,
    letterbox,
    middle,
    paste_objects,
    repaint_background,
    warp,
)
from lisa_small.training.precision import half_precision
from lisa_small.training.scenes import Scene

SMALLEST = 16
"""Pixels (of the training picture) an object must show to be asked for."""

PLACE_ERROR = 0.02
"""Standard deviation of the places that prompts say, relative to the picture's side."""

LOOKING_HEADS = 2
"""Heads of each layer of the mask decoder whose attention from the image to the prompt is supervised."""

LOOKING_RATE = 10.0
"""Factor of the learning rate for the queries and keys of these heads' layers: sharp looks need large ones."""

SAVE_EVERY = 250
"""Steps between snapshots."""

VALIDATE_EVERY = 500
"""Steps between validations."""


@dataclass(frozen=True)
class Phase:
    """Part of the schedule.

    Args:
        size: Side of the picture, pixels.
        batch: Pictures of a step.
        steps: Of the optimizer.
        lr: Learning rate at the beginning.
        lr_end: At the end, after half a cosine.
    """

    size: int
    batch: int
    steps: int
    lr: float
    lr_end: float

    def __post_init__(self) -> None:
        check_positive(self, "size", "batch", "steps", "lr")


@dataclass(frozen=True)
class VisionConfig:
    """Settings of stage 1.

    Args:
        phases: Of the schedule, one after the other.
        prompts: For each picture.
        trunk_lr: Factor of the learning rate for the pretrained trunk.
        frozen_blocks: First blocks of the trunk that stay as they are.
        weight_decay: AdamW's, for matrices.
        warmup: Steps in which the learning rate rises, at the beginning.
        paste: Share of pictures with pasted objects.
        doubles: Share of these into which objects of their own are pasted once more.
        repaint: Share of pictures with another background.
        augment: False shows pictures as they are, to see whether a few can be learned by heart.
        frozen_prompts: Keep the prompts of classes, so that stage 2 can learn them meanwhile.
        precision: Of products, as in :func:`half_precision`.
        seed: Of everything random.
    """

    phases: tuple[Phase, ...]
    prompts: int = 6
    trunk_lr: float = 0.3
    frozen_blocks: int = 3
    weight_decay: float = 0.05
    warmup: int = 100
    paste: float = 0.5
    doubles: float = 0.5
    repaint: float = 0.0
    augment: bool = True
    frozen_prompts: bool = False
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "prompts", "warmup")
        check_shares(self, "paste", "doubles", "repaint")
        half_precision(self.precision)


def channels_last(model: VisionModel) -> VisionModel:
    """``model`` with its weights laid out as convolutions on a CPU read them fastest."""
    # torch does not declare that `to` takes a memory format alone.
    moved: VisionModel = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


class VisionModel(nn.Module):
    """Encoder, SAM's prompt encoder and mask decoder, and the prompts that stand for classes.

    classes: names, their order is the class index. A prompt is the sum of its classes' vectors and, where it has a
    place, of SAM's encoding of a point there.
    """

    def __init__(self, encoder: ConvImageEncoder, sam: SamModel, classes: list[str]):
        super().__init__()
        channels = encoder.out_channels
        self.classes = classes
        self.encoder = encoder
        self.sam = sam
        self.class_prompts = nn.Embedding(len(classes), channels)
        self.recognition = Recognition(channels, len(classes), len(COLOURS))
        self.presence = nn.Conv2d(channels, len(classes), 1)
        nn.init.constant_(bias_of(self.presence), -4.0)  # most classes are absent from most pictures
        # Folded normalisation leaves a bias of over 100 in the first block of the trunk that was brought along: bf16
        # loses what it cancels (12 % of the block's output), and what is trained behind that is of no use in fp32.
        for module in (encoder.stem, encoder.blocks[0]):
            module.forward = torch.autocast("cpu", enabled=False)(module.forward)

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised to (B, C, S / 8, S / 8)."""
        return self.encoder(pixels)

    def prompts(self, class_weights: Tensor, places: Tensor, has_place: Tensor) -> Tensor:
        """(B, P, K) 0 or 1, (B, P, 2) as for ``place`` and (B, P) 0 or 1 to prompts (B, P, C)."""
        return class_weights @ self.class_prompts.weight + self.place(places) * has_place[..., None]

    @torch.no_grad()
    def place(self, points: Tensor) -> Tensor:
        """SAM's encoding of points (..., 2), x and y of [0, 1] or a little outside, to (..., C). Always in fp32."""
        with half_precision("fp32"):
            return self.sam.shared_image_embedding(points)

    def decode(self, embedding: Tensor, prompts: Tensor) -> Tensor:
        """(B, C, g, g) and (B, P, C) to mask logits (B, P, 4g, 4g)."""
        return self.decode_and_look(embedding, prompts)[0]

    def decode_and_look(self, embedding: Tensor, prompts: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The same with each layer's scores of tokens (N, n, T, G), as ``decode_and_look`` of the mask decoder."""
        with torch.no_grad(), half_precision("fp32"):
            positions = image_positions(self.sam, embedding.shape[-1])
        return decode_and_look(self.sam, embedding, positions, prompts)


@dataclass
class Batch:
    """B pictures with P prompts each. ids: (B, S, S) uint8. id_in_mask: (B, P, 256) 1 where an id belongs
    to a prompt's mask, else 0."""

    pixels: Tensor
    ids: Tensor
    id_in_mask: Tensor
    class_weights: Tensor
    places: Tensor
    has_place: Tensor
    cell_labels: Tensor
    cell_colours: Tensor
    present: Tensor
    unsure: Tensor


def stack_pixels(squares: Sequence[Square]) -> Tensor:
    """(B, 3, S, S) float32, as the encoder reads them."""
    pixels = torch.from_numpy(np.stack([square.pixels() for square in squares]))
    return pixels.contiguous(memory_format=torch.channels_last)


def make_batch(
    scenes: list[Scene], index: dict[str, int], config: VisionConfig, phase: Phase, rng: random.Random
) -> Batch:
    """Draw, augment and prompt ``phase.batch`` pictures."""
    count, prompts, size = phase.batch, config.prompts, phase.size
    squares = []
    ids = np.zeros((count, size, size), np.uint8)
    id_in_mask = torch.zeros(count, prompts, 256)
    weights = torch.zeros(count, prompts, len(index))
    places, has_place = torch.zeros(count, prompts, 2), torch.zeros(count, prompts)
    class_of = np.zeros((count, 256), np.int64)  # id -> class index + 1
    colour_of = np.full((count, 256), -1, np.int64)  # id -> 0 (of no one colour) or index in COLOURS + 1; -1: no object
    present, unsure = torch.zeros(count, len(index)), torch.zeros(count, len(index))
    for b in range(count):
        sample, square = draw_picture(scenes, index, config, size, rng)
        squares.append(square)
        ids[b] = square.ids
        areas = np.bincount(ids[b].ravel(), minlength=256)
        for i, c in sample.classes.items():
            class_of[b, i] = c + 1
            colour_of[b, i] = sample.colours[i]
            if areas[i] >= SMALLEST:
                present[b, c] = 1
            elif areas[i]:
                unsure[b, c] = 1
        for p, prompt in enumerate(draw_prompts(sample.classes, areas, prompts, len(index), rng)):
            weights[b, p, prompt.classes] = 1
            id_in_mask[b, p, prompt.target_ids] = 1
            if prompt.placed:
                truly = middle(ids[b] == prompt.target_ids[0])  # who says where is seldom exact
                places[b, p] = torch.tensor([at + rng.gauss(0.0, PLACE_ERROR) for at in truly])
                has_place[b, p] = 1
    cells = ids[:, 2::4, 2::4].astype(np.int64)  # four looks at every cell of stride 8
    labels, paints = (
        torch.from_numpy(np.take_along_axis(table, cells.reshape(count, -1), 1).reshape(cells.shape))
        for table in (class_of, colour_of)
    )
    return Batch(
        stack_pixels(squares),
        torch.from_numpy(ids),
        id_in_mask,
        weights,
        places,
        has_place,
        labels,
        paints,
        present,
        unsure * (1 - present),
    )


def draw_picture(
    scenes: list[Scene], index: dict[str, int], config: VisionConfig, size: int, rng: random.Random
) -> tuple[Sample, Square]:
    """A scene as training shows it: what is in it, and its picture of ``size``."""
    sample = rng.choice(scenes).sample(index)
    if not config.augment:
        return sample, letterbox(sample.rgb, sample.ids, size)
    if rng.random() < config.paste:
        donor = sample if rng.random() < config.doubles else rng.choice(scenes).sample(index)
        sample = paste_objects(sample, donor, rng, rng.randrange(1, 4))
    square = letterbox(sample.rgb, sample.ids, size) if rng.random() < 0.15 else warp(sample, size, rng)
    if rng.random() < config.repaint:
        square = repaint_background(square, rng)
    return sample, replace(square, rgb=camera(square.rgb, rng))


@dataclass(frozen=True)
class MaskPrompt:
    """What a prompt of the mask decoder asks for: classes, the ids of its mask, and whether it says where that is."""

    classes: list[int]
    target_ids: list[int]
    placed: bool = False


def draw_prompts(
    classes: dict[int, int], areas: NDArray[np.intp], count: int, num_classes: int, rng: random.Random
) -> list[MaskPrompt]:
    """``count`` prompts for a picture: classes that are there, one thing by its place, unions, classes that are not.

    classes: of each id. areas: pixels of each id.
    """
    visible = {i: c for i, c in classes.items() if areas[i] >= SMALLEST}
    by_class: dict[int, list[int]] = {}
    for i, c in classes.items():
        if areas[i]:
            by_class.setdefault(c, []).append(i)
    doubled = [i for i, c in visible.items() if len(by_class[c]) > 1]
    present = sorted(set(visible.values()))
    rng.shuffle(present)
    prompts = []
    for p in range(count):
        kind = rng.random()
        if not present or (p == count - 1 and kind < 0.5):
            absent = rng.randrange(num_classes)
            prompts.append(MaskPrompt([absent], by_class.get(absent, [])))
        elif p == count - 2 or kind < 0.2:
            i = rng.choice(doubled or list(visible))
            prompts.append(MaskPrompt([visible[i]], [i], placed=True))
        elif kind < 0.3 and len(present) > 1:
            union = rng.sample(present, min(len(present), rng.choice((2, 2, 3))))
            prompts.append(MaskPrompt(union, [i for c in union for i in by_class[c]]))
        else:
            c = present[p % len(present)]
            prompts.append(MaskPrompt([c], by_class[c], placed=len(by_class[c]) == 1 and rng.random() < 0.5))
    return prompts


def vision_loss(model: VisionModel, batch: Batch, precision: str = "fp32") -> tuple[Tensor, dict[str, float]]:
    """2 BCE + Dice of the masks at stride 2, the same of where supervised heads of the mask decoder look, class and
    colour of every cell, and presence."""
    with half_precision(precision):
        embedding = model.embed(batch.pixels)
        prompts = model.prompts(batch.class_weights, batch.places, batch.has_place)
        logits, looks = model.decode_and_look(embedding, prompts)
    logits = logits.flatten(0, 1).float()
    embedding = embedding.float()
    with torch.no_grad():
        full = torch.gather(
            batch.id_in_mask, 2, batch.ids.flatten(1).long()[:, None].expand(-1, batch.id_in_mask.shape[1], -1)
        ).view(-1, 1, *batch.ids.shape[1:])
        targets = F.avg_pool2d(full, 2)[:, 0]  # soft where an edge crosses the pixel
        visible = targets.flatten(1).sum(1) > 0
    bce = bce_per_mask(logits, targets).mean()
    dice = dice_per_mask(logits[visible], targets[visible]).sum() / max(int(visible.sum()), 1)
    look = look_loss(looks, targets, visible & (batch.has_place.flatten() > 0))
    cells = model.recognition.cell_class(embedding)  # (B, K + 1, g, g)
    dense = torch.stack([F.cross_entropy(cells, sample) for sample in _samples(batch.cell_labels)]).mean()
    paint = model.recognition.cell_colour(embedding)
    colour = torch.stack([F.cross_entropy(paint, sample, ignore_index=-1) for sample in _samples(batch.cell_colours)])
    colour = colour.nan_to_num().mean()  # nan: a batch without an object
    present_logits = model.presence(embedding).flatten(2).amax(2)
    presence = F.binary_cross_entropy_with_logits(present_logits, batch.present, reduction="none")
    presence = (presence * (1 - batch.unsure)).sum(1).mean()
    loss = 2 * bce + dice + look + dense + 0.2 * colour + 0.05 * presence
    parts = {"bce": bce, "dice": dice, "look": look, "dense": dense, "colour": colour, "presence": presence}
    return loss, {k: float(v.detach()) for k, v in parts.items()}


def look_loss(looks: list[Tensor], targets: Tensor, placed: Tensor) -> Tensor:
    """2 BCE + Dice between how much supervised heads look at prompts with a place and the masks of these.

    looks: scores (N, n, T, G) of each layer, the prompt last. targets: (N, s, s) in [0, 1]. placed: (N,) bool. Only
    where the image looks at a prompt can tell two equal things apart.
    """
    if not placed.any():
        return looks[0].sum() * 0.0
    side = math.isqrt(looks[0].shape[-1])
    truth = F.adaptive_avg_pool2d(targets[placed][:, None], side).flatten(2).expand(-1, LOOKING_HEADS, -1)
    truth, losses = truth.flatten(0, 1), []  # (M * n, G)
    for look in looks:
        scores = look[placed, :LOOKING_HEADS].float().flatten(0, 1)
        odds = scores[:, -1] - scores[:, :-1].logsumexp(1)
        losses.append((2 * bce_per_mask(odds, truth) + dice_per_mask(odds, truth)).mean())
    return torch.stack(losses).mean()


def _samples(labels: Tensor) -> list[Tensor]:
    """(B, 2g, 2g) to the four (B, g, g) that interleave to it."""
    return [labels[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]


def parameter_groups(model: VisionModel, config: VisionConfig) -> list[ParameterGroup]:
    """AdamW groups: weights and the rest, trunk and the rest, supervised attention. Freezes the trunk's first
    blocks and SAM's own prompts: of points, masks and no mask."""
    for module in (model.encoder.stem, *model.encoder.blocks[: config.frozen_blocks]):
        module.requires_grad_(False)
    if config.frozen_prompts:
        model.class_prompts.requires_grad_(False)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith(("sam.prompt_encoder", "sam.shared_image_embedding")):
            parameter.requires_grad_(False)  # or its gradient would add up from step to step, and clip all others
        if not parameter.requires_grad:
            continue
        factor = config.trunk_lr if name.startswith(("encoder.stem", "encoder.blocks")) else 1.0
        decay = config.weight_decay if parameter.ndim > 1 and "prompts" not in name else 0.0
        if name.endswith(("image_to_token.q_proj.weight", "image_to_token.k_proj.weight")):
            factor, decay = LOOKING_RATE, 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": p, "factor": f, "weight_decay": d} for (f, d), p in groups.items()]


def phase_of(phases: tuple[Phase, ...], step: int) -> Phase:
    """The phase that ``step``, from 0, belongs to. Raises ConfigError after the last one."""
    for phase, end in zip(phases, accumulate(phase.steps for phase in phases), strict=True):
        if step < end:
            return phase
    raise ConfigError(f"step {step} is after the last phase")


def train_vision(
    model: VisionModel, scenes: list[Scene], validation: list[Scene], config: VisionConfig, folder: Path
) -> None:
    """Run stage 1, or the rest of it. Writes vision.pt with the model, and vision.json with the losses.

    Raises:
        TrainingDiverged: The loss or a weight is not finite.
        CheckpointError: The state of the stopped run cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = parameter_groups(model, config)
    channels_last(model)
    index = {name: i for i, name in enumerate(model.classes)}
    steps = sum(phase.steps for phase in config.phases)
    accelerator = make_accelerator(cpu=True)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    snapshots = Snapshots(folder / "state" / "vision", accelerator, tensors)

    def forward(step: int, number: int) -> Pass:
        phase = phase_of(config.phases, step)
        rng = random.Random(f"{config.seed}/{step}")  # a step's data depend on the step alone: resuming is exact
        loss, parts = vision_loss(model, make_batch(scenes, index, config, phase, rng), config.precision)
        return Pass(loss, {**parts, "size": phase.size}, phase.batch)

    def scores(done: int) -> dict[str, float]:
        return validate(model, validation, phase_of(config.phases, done - 1).size, index)

    if config.phases:
        optimizer = adamw(groups, beta2=0.98)
        loop = TrainingLoop(
            accelerator,
            None,
            [parameter for group in groups for parameter in group["params"]],
            optimizer,
            cosine(optimizer, config.phases, config.warmup),
            snapshots,
            Report(folder / "vision.json"),
            Pace(steps, SAVE_EVERY, VALIDATE_EVERY),
        )
        loop.run(lambda first: forward, scores)
    with replacing(folder / "vision.pt") as unfinished:
        torch.save({"model": model.state_dict(), "step": steps}, unfinished)
    snapshots.clear()


@torch.inference_mode()
def validate(model: VisionModel, scenes: list[Scene], size: int, index: dict[str, int]) -> dict[str, float]:
    """On letterboxed pictures, "gIoU": by class prompt, every class that is there, all its objects; and "one": by class
    and place, each of several alike (where scenes have such)."""
    model.eval()
    scores: dict[str, list[float]] = {"gIoU": [], "one": []}
    for scene in scenes:
        sample = scene.sample(index)
        square = letterbox(sample.rgb, sample.ids, size)
        by_class: dict[int, list[int]] = {}
        for i, c in sample.classes.items():
            by_class.setdefault(c, []).append(i)
        prompts = [MaskPrompt([c], members) for c, members in by_class.items()]
        prompts += [MaskPrompt([c], [i], placed=True) for c, alike in by_class.items() if len(alike) > 1 for i in alike]
        cases = [(prompt, np.isin(square.ids, prompt.target_ids)) for prompt in prompts]
        cases = [(prompt, truth) for prompt, truth in cases if truth.sum() >= SMALLEST]
        if not cases:
            continue
        weights, places = torch.zeros(1, len(cases), len(index)), torch.zeros(1, len(cases), 2)
        for p, (prompt, truth) in enumerate(cases):
            weights[0, p, prompt.classes] = 1
            places[0, p] = torch.tensor(middle(truth))
        placed = torch.tensor([[float(prompt.placed) for prompt, _ in cases]])
        logits = model.decode(model.embed(stack_pixels([square])), model.prompts(weights, places, placed))
        masks = F.interpolate(logits, (size, size), mode="bilinear")[0].numpy() > 0
        for mask, (prompt, truth) in zip(masks, cases, strict=True):
            overlap = (mask & truth).sum() / max((mask | truth).sum(), 1)
            scores["one" if prompt.placed else "gIoU"].append(float(overlap))
    model.train()
    return {name: float(np.mean(values)) for name, values in scores.items() if values}
