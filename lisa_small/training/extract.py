"""``recipe: extract_small``: the demo model learns to name proposals.

The image encoder, recognition and the mask decoder stay as they are. Trained: LoRA on the language model, the projector
of ``[SEG]``, and the pointer (lisa_small.network.pointer). No mask is decoded in training.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lisa_ros.atomic import replacing
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.proposers.drawn import Drawn
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.training.choices import Plan
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import ParameterGroup
from lisa_ros.training.settings import build, check_positive
from lisa_small.extractor import BASE, ENGINE, WEIGHTS, base_folder
from lisa_small.network.pointer import Pointer
from lisa_small.scenes.commands import conversations_for
from lisa_small.training.dialogue import Speech, Suffix
from lisa_small.training.language import LanguageConfig, Library, train_language
from lisa_small.training.low_rank import LowRank, add_low_rank, named_matrices
from lisa_small.training.model import QUESTIONS
from lisa_small.training.packing import Packed, by_row, pack, predict_packed, read_packed, states_at
from lisa_small.training.practice import Practice
from lisa_small.training.proposed import Proposed, propose

log = logging.getLogger(__name__)

CHOICE = 1.0
"""Weight of the loss of choices."""


@dataclass(frozen=True)
class ExtractRecipe:
    """A recipe, as its yaml says.

    Args:
        data: Folder of `lisa scenes`.
        out: Folder of the run; its model is OUT/model.
        round: Settings of the language round; ``drawn`` and ``covered_cells`` have no meaning here.
        start: Folder of a finished small model; lisa-small for the bundled one.
        rank: Of LoRA.
        validation: The first scenes, so many, are not trained on.
        threads: Of torch.
        limit: Largest number of scenes; None: all.
    """

    data: str
    out: str
    round: LanguageConfig
    start: str = BASE
    rank: int = 16
    validation: int = 60
    threads: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        check_positive(self, "rank", "validation", "threads")


def train(configuration: Mapping[str, Any]) -> int:
    """Run ``recipe: extract_small`` to its end, from the newest snapshot of the run where there is one.

    Raises:
        ConfigError: A setting or the data cannot be used.
        TrainingDiverged: The loss or a weight is not finite.
    """
    run = ExtractRun(build(ExtractRecipe, {name: value for name, value in configuration.items() if name != "recipe"}))
    run.to_the_end()
    print(f"trained; try it with: lisa segment PICTURE COMMAND --model {run.folder / 'model'}")
    return 0


class ProposedLibrary(Library):
    """Conversations in which each ``[SEG]`` is as many mentions as its objects need proposals.

    Args:
        proposed: The scenes.
        classes: Names of the model's classes.
        speech: How conversations become ids.
        size: Side of the encoder's picture, pixels.
        grid: Image tokens of a side.
    """

    def __init__(self, proposed: list[Proposed], classes: tuple[str, ...], speech: Speech, size: int, grid: int):
        index = {name: number for number, name in enumerate(classes)}
        super().__init__([one.scene for one in proposed], index, speech, conversations_for, size, grid)
        self.proposed = proposed

    def draw(
        self,
        count: int,
        each: int,
        rng: random.Random,
        absent: float = 0.0,
        kinds: dict[str, float] | None = None,
        split: str = "train",
        practice: Practice | None = None,
    ) -> tuple[list[int], list[list[Suffix]]]:
        numbers, suffixes = super().draw(count, each, rng, absent, kinds, split, practice)
        return numbers, [
            [self._with_mentions(suffix, number) for suffix in of_scene]
            for number, of_scene in zip(numbers, suffixes, strict=True)
        ]

    def _with_mentions(self, suffix: Suffix, number: int) -> Suffix:
        plans = [self.proposed[number].choices.plan(targets) for targets in suffix.targets]
        return with_mentions(suffix, [max(len(plan.sequence), 1) for plan in plans])


def with_mentions(suffix: Suffix, counts: list[int]) -> Suffix:
    """``suffix`` with each ``[SEG]`` repeated. counts: of each, at least 1."""
    ids, weights, segs, targets = list(suffix.ids), list(suffix.weights), [], []
    added = 0
    moves: list[int] = []  # positions behind which one was inserted
    for at, wanted, count in zip(suffix.segs, suffix.targets, counts, strict=True):
        begin = at + added
        for _ in range(count - 1):
            ids.insert(begin + 1, ids[begin])
            weights.insert(begin + 1, 1.0)
            moves.append(at)
        segs += list(range(begin, begin + count))
        targets += [wanted] * count
        added += count - 1

    def moved(at: int) -> int:
        return at + sum(at > before for before in moves)

    return replace(
        suffix,
        ids=ids,
        weights=weights,
        segs=segs,
        targets=targets,
        presence=[(moved(at), there) for at, there in suffix.presence],
        nouns=[(moved(at), members) for at, members in suffix.nouns],
        meant=[(moved(at), members) for at, members in suffix.meant],
        asked=[(moved(at), members) for at, members in suffix.asked],
    )


@dataclass(frozen=True, eq=False)
class Mention:
    """row, at: position that predicts it. plan, step: which proposals are due there."""

    row: int
    at: int
    plan: Plan
    step: int


def mentions_of(packed: Packed, scenes: list[Proposed]) -> list[Mention]:
    """The mentions of a batch that have an answer. scenes: of each row."""
    found: list[Mention] = []
    before: tuple[int, int] | None = None
    step = 0
    for row, at, objects in packed.segs:
        step = step + 1 if before == (row, at - 1) else 0
        before = (row, at)
        plan = scenes[row].choices.plan(objects)
        if step < len(plan.sequence):
            found.append(Mention(row, at, plan, step))
    return found


class ExtractRun:
    """One run.

    Args:
        recipe: Its settings.

    Raises:
        ConfigError: The data cannot be used, or the start is no finished small model.
    """

    def __init__(self, recipe: ExtractRecipe) -> None:
        torch.set_num_threads(recipe.threads)
        torch.manual_seed(recipe.round.seed)
        self.recipe, self.folder = recipe, Path(recipe.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        start = base_folder(recipe.start)
        cpu = torch.device("cpu")
        self.lisa, self.spec = load_lisa(start, None, Precision.pick("fp32", cpu), cpu)
        tokenizer = Tokenizer.from_folder(start)
        segmenter = Segmenter(self.lisa, self.spec, tokenizer, None, self.spec.conversation, "fp32")
        drawn = Drawn(segmenter)
        self.class_prompts = drawn.class_prompts.clone()
        proposed = propose(Path(recipe.data), segmenter, drawn, recipe.limit)
        if len(proposed) <= recipe.validation:
            raise ConfigError(f"{recipe.data} has {len(proposed)} scenes; more than {recipe.validation} are needed")
        speech = Speech(tokenizer, template(self.spec.conversation), QUESTIONS)
        self.library, self.held_out = (
            ProposedLibrary(part, self.spec.classes, speech, self.lisa.input_size, grid)
            for grid in [round(self.lisa.vision_tower.num_tokens**0.5)]
            for part in (proposed[recipe.validation :], proposed[: recipe.validation])
        )
        self.pointer = Pointer(self.class_prompts.shape[1], self.lisa.llama.config.hidden_size)
        self.lisa.add_module("pointer", self.pointer)  # so that snapshots have it
        self.low_rank: dict[str, LowRank] = add_low_rank(self.lisa.llama.layers, recipe.rank)
        self.lisa.seg_projector.requires_grad_(True)

    def to_the_end(self) -> None:
        """Take all steps that are left, and write the model."""
        log.info("before training: %s", {name: round(value, 4) for name, value in self.validate().items()})
        snapshots = train_language(
            self.lisa,
            self.library,
            self.recipe.round,
            self._groups(),
            self._picture,
            self._choice_loss,
            self.validate,
            Report(self.folder / "extract.json"),
            self.folder / "state",
            change=self._with_rows,
        )
        self.export()
        snapshots.clear()

    def _groups(self) -> list[ParameterGroup]:
        matrices = [parameter for _, parameter in named_matrices(self.low_rank)]
        pointer = [p for p in self.pointer.parameters() if p.ndim]
        return [
            {"params": matrices, "factor": 1.0, "weight_decay": 0.0},
            {"params": pointer, "factor": 1.0, "weight_decay": 0.0},
            {"params": [self.pointer.log_sharpness], "factor": 10.0, "weight_decay": 0.0},
            {"params": list(self.lisa.seg_projector.parameters()), "factor": 0.5, "weight_decay": 0.0},
        ]

    # --- a batch ---

    def _picture(self, number: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        return self._shown(self.library.proposed[number], rng)

    def _shown(self, one: Proposed, rng: random.Random) -> tuple[Tensor, Tensor]:
        """All image tokens that show something, and some of the others."""
        covered = one.covered.tolist()
        empty = sorted(set(range(len(one.tokens))) - set(covered))
        chosen = torch.tensor(covered + rng.sample(empty, min(self.recipe.round.empty_cells, len(empty))))
        return chosen, one.tokens[chosen].float()

    def _with_rows(self, packed: Packed, numbers: list[int]) -> Packed:
        return self._add_rows(packed, [self.library.proposed[number] for number in numbers])

    def _add_rows(self, packed: Packed, scenes: list[Proposed]) -> Packed:
        """Each mention reads as its proposal's row, which is that of ``[SEG]`` and more."""
        mentions = mentions_of(packed, scenes)
        if not mentions:
            return packed
        rows = [self.pointer.rows(one.prompts, one.places) for one in scenes]
        more = torch.stack([rows[m.row][m.plan.sequence[m.step]] for m in mentions])
        at = (torch.tensor([m.row for m in mentions]), torch.tensor([m.at + 1 for m in mentions]))
        return replace(packed, embedded=packed.embedded.index_put(at, more.to(packed.embedded), accumulate=True))

    def _choice_loss(
        self, hidden: Tensor, packed: Packed, numbers: list[int], rng: random.Random
    ) -> tuple[Tensor, dict[str, float]]:
        del rng
        scenes = [self.library.proposed[number] for number in numbers]
        losses, right = self._choices(hidden, packed, scenes)
        if not len(losses):
            return hidden.sum() * 0.0, {}
        loss = losses.mean()
        return CHOICE * loss, {"choice": float(loss.detach()), "chosen": float(right.float().mean())}

    def _choices(self, hidden: Tensor, packed: Packed, scenes: list[Proposed]) -> tuple[Tensor, Tensor]:
        """Cross-entropy (M,) of each mention with its soft target, and whether the best is as good as any (M,)."""
        mentions = mentions_of(packed, scenes)
        if not mentions:
            return hidden.new_zeros(0), hidden.new_zeros(0, dtype=torch.bool)
        states = states_at(hidden, [m.row for m in mentions], [m.at for m in mentions])
        embeddings = self.lisa.seg_projector(states).float()
        losses, right = [], []
        for row, mine in by_row([m.row for m in mentions]):
            shares = self.pointer.shares(embeddings[mine], scenes[row].prompts)
            soft = torch.stack([torch.from_numpy(m.plan.soft[m.step]) for m in mentions[mine]])
            losses.append(-(soft * shares.clamp_min(-50.0)).sum(1))
            chosen = soft.gather(1, shares.argmax(1, keepdim=True))[:, 0]
            right.append(chosen > 0.5 * soft.amax(1))
        return torch.cat(losses), torch.cat(right)

    # --- what comes of it ---

    @torch.no_grad()
    def validate(self, done: int = 0, count: int = 48, each: int = 8) -> dict[str, float]:
        """Over held-out scenes and phrasings: share of right choices, and of answers right to the last word."""
        del done
        rng = random.Random(0)
        rights: list[bool] = []
        exact: list[bool] = []
        for _ in range(0, min(count, len(self.held_out.scenes)), 8):
            numbers, suffixes = self.held_out.draw(8, each, rng, split="test")
            scenes = [self.held_out.proposed[number] for number in numbers]
            images = [self._shown(one, rng) for one in scenes]
            packed = pack(self.lisa, self.held_out.speech, images, suffixes, self.held_out.grid**2)
            packed = self._add_rows(packed, scenes)
            hidden = read_packed(self.lisa, packed)[-1]
            rights += self._choices(hidden, packed, scenes)[1].tolist()
            words = predict_packed(self.lisa, packed, hidden).argmax(-1) == packed.answer_ids
            lengths = [sum(weight > 0 for weight in suffix.weights) for one in suffixes for suffix in one]
            exact += [bool(part.all()) for part in words.split(lengths)]
        return {"chosen right": sum(rights) / max(len(rights), 1), "words right": sum(exact) / max(len(exact), 1)}

    def export(self) -> Path:
        """Write what changed to ``folder/model``, in half precision."""
        into = self.folder / "model"
        into.mkdir(exist_ok=True)
        tensors: dict[str, Tensor] = {f"llama.layers.{n}": p for n, p in named_matrices(self.low_rank)}
        tensors |= {f"seg_projector.{n}": p for n, p in self.lisa.seg_projector.named_parameters()}
        tensors |= {f"pointer.{n}": p for n, p in self.pointer.named_parameters()}
        tensors["class_prompts"] = self.class_prompts
        half = {name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}
        with replacing(into / WEIGHTS) as unfinished:
            save_file(half, unfinished, metadata={"format": "pt"})
        facts = {"engine": ENGINE, "base": self.recipe.start, "name": into.resolve().parent.name}
        (into / "engine.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
        return into
