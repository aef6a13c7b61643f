"""Stages 2 and 3: the language model, first over pictures made of class names, then over real image tokens.

Stage 2 replaces the image encoder by the truth: a cell of the picture that a hammer covers is the vector "hammer" at
that cell. Only covered cells become tokens, so a conversation is cheap, and the language model learns what people mean,
what is absent and what lies left of what without waiting for pixels.
Stage 3 swaps in the real image tokens, at the same places, and connects the state of ``[SEG]`` to the mask decoder.

All conversations of a picture are packed behind one image: each sees the image and itself, never its neighbours.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from lisa_ros.model.lisa import Lisa
from lisa_ros.prompt import QuestionForms, Template, Turn, build_prompt, phrase_command
from lisa_ros.tokenizer import IMAGE_ID, Tokenizer
from lisa_ros.training.augment import letterbox
from lisa_ros.training.scenes import COLOURS, Scene
from lisa_ros.training.vision import half_precision

log = logging.getLogger(__name__)

Conversations = Callable[..., list[dict]]
"""conversations_for(scene record, rng, count, split, kinds=None): where the sentences come from."""


@dataclass
class Suffix:
    """One conversation after the image: ids (T,), the weight of each in the loss, and the masks its ``[SEG]`` ask for.

    weights: 0 for what a person said, 1 for answers, VERDICT where an answer turns to "here it is" or "it is not here".
    segs: position (in ids) of each ``[SEG]``; targets: the object ids of each. presence: position (in ids) of a token
    that says whether what was named is there, and whether it is. nouns, meant: positions (in ids) of tokens, and the
    object ids that the state there, or the state before it, is to point at.
    """

    ids: list[int]
    weights: list[float]
    segs: list[int] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)
    presence: list[tuple[int, bool]] = field(default_factory=list)
    nouns: list[tuple[int, list[int]]] = field(default_factory=list)
    meant: list[tuple[int, list[int]]] = field(default_factory=list)
    kind: str = ""


SAVE_EVERY = 200
"""Steps between checkpoints of a run."""

VALIDATE_EVERY = 500
"""Steps between looks at how many answers are right to the last word."""

POINT = 1.0
"""Weight of the losses of :class:`Pointing`."""

NAMED = 2.0
"""Weight of the token with which an answer begins to name what is meant."""

VERDICT = 3.0
"""Weight of the one token of an answer that says whether the thing is there."""


def name_first(answer: str) -> str:
    """What is denied is named before: "There is no cup here." to "It is the cup that is not here.", and "The cup is not
    like that." to "It is the cup that is not like that."

    A small model cannot look for a thing before it has said which. Other answers are left alone.
    """
    if match := re.fullmatch(r"There (is|are) no (.+) here\.", answer):
        verb, name, rest = match[1], match[2], "here"
    elif match := re.fullmatch(r"The (.+?) (is|are) not (.+)\.", answer):
        name, verb, rest = match.groups()
    else:
        return answer
    return f"{'It is' if verb == 'is' else 'They are'} the {name} that {verb} not {rest}."


@dataclass(frozen=True)
class Speech:
    """How conversations become ids."""

    tokenizer: Tokenizer
    template: Template
    questions: QuestionForms

    def prefix(self) -> tuple[list[int], list[int]]:
        """Ids before and after the image that all conversations share: ``<s>``, USER:, <im_start> and <im_end>."""
        ids = self.tokenizer.encode_prompt(build_prompt([Turn("x")], self.template, im_start_end=True).text)
        at = ids.index(IMAGE_ID)
        return ids[:at], ids[at + 1 : at + 2]

    def suffix(self, conversation: dict, rng: random.Random | None = None, objects: Sequence[dict] = ()) -> Suffix:
        """The conversation's ids after the shared prefix. rng: where given, commands are typed hastily at times.
        objects: of the scene, so that words can point at them."""
        before, after = self.prefix()
        skip = len(before) + 1 + len(after)
        turns: list[Turn] = []
        result = Suffix([], [])
        for number, turn in enumerate(conversation["turns"]):
            command = _typed(turn["command"], rng) if rng else turn["command"]
            question = phrase_command(command, self.questions, explain=bool(turn.get("explain")), follow_up=number > 0)
            turns.append(Turn(question))
            asked = len(result.ids)
            begin = len(self._ids(turns)) - skip
            answer = name_first(turn["answer"])
            turns[-1] = Turn(question, answer)
            ids = self._ids(turns)[skip:]
            result.weights += [0.0] * (begin - len(result.weights))
            result.weights += [1.0] * (len(ids) - begin)
            segs = [i for i in range(begin, len(ids)) if ids[i] == self.tokenizer.id_of("[SEG]")]
            if at := segs or self._denials(ids, begin):
                verdict = at[0] - 1 if segs else at[0]
                result.weights[verdict] = VERDICT
                result.presence.append((verdict, bool(segs)))
            wanted = [list(turn["targets"])] if turn["targets"] else []
            if len(segs) != len(wanted):
                raise ValueError(f"{len(segs)} [SEG] for {len(wanted)} masks in {turn['answer']!r}")
            result.ids, result.segs, result.targets = ids, result.segs + segs, result.targets + wanted
            self._point(result, objects, asked, begin, segs)
        result.kind = conversation.get("kind", "")
        return result

    def _point(self, result: Suffix, objects: Sequence[dict], asked: int, begin: int, segs: list[int]) -> None:
        """Note where the newest turn, asked from ``asked`` and answered from ``begin`` on, names things that are there:
        in the question all of the class, in the answer those that are meant, from its first word on."""
        by_class: dict[str, list[int]] = {}
        for thing in objects:
            by_class.setdefault(thing["class"], []).append(thing["id"])
        meant = set(result.targets[-1]) if segs else set()
        named = []
        for label, members in by_class.items():
            result.nouns += [(last, members) for _, last in self._names(result.ids, asked, begin, label)]
            if chosen := [i for i in members if i in meant]:
                found = self._names(result.ids, begin, segs[0], label)
                named += [(first, chosen) for first, _ in sorted(found)[:1]]
        for first, _ in named:
            result.weights[first] = NAMED
        if named:
            opening = min(first for first, _ in named)
            result.meant += [(at, sorted(meant)) for at in range(begin, opening)] + named
            result.meant += [(at, sorted(meant)) for at in segs]

    def _names(self, ids: list[int], begin: int, end: int, label: str) -> list[tuple[int, int]]:
        """First and last position of every "label" or "labels" in ids[begin:end]."""
        found = []
        for phrase in (self.tokenizer.encode(label), self.tokenizer.encode(label + "s")):
            length = len(phrase)
            found += [(i, i + length - 1) for i in range(begin, end - length + 1) if ids[i : i + length] == phrase]
        return found

    def _denials(self, ids: list[int], begin: int) -> list[int]:
        """Where "that is not" or "that are not" begins."""
        phrases = [self.tokenizer.encode(f"that {verb} not") for verb in ("is", "are")]
        return [i for i in range(begin, len(ids)) if any(ids[i : i + len(phrase)] == phrase for phrase in phrases)]

    def _ids(self, turns: list[Turn]) -> list[int]:
        return self.tokenizer.encode_prompt(build_prompt(turns, self.template, im_start_end=True).text)


def _typed(command: str, rng: random.Random) -> str:
    """Sometimes without capitals, without the full stop, or with a polite word."""
    if rng.random() < 0.3:
        command = command.lower()
    if rng.random() < 0.3:
        command = re.sub(r"[.!?]+$", "", command)
    return command


@dataclass
class Cells:
    """What covers each cell of a picture's token grid. index: (n,) cells with an object.

    share: (n, words) of the cell that each class, and each colour, covers.
    places: object id -> (x, y) of its middle and area, all relative to the padded square. parts: object id -> (grid *
    grid,) the share of the object in each cell, summing to 1.
    """

    index: Tensor
    share: Tensor
    places: dict[int, tuple[float, float, float]]
    parts: dict[int, Tensor]

    def whole_share(self, grid: int) -> Tensor:
        """(grid * grid, words): the shares of all cells."""
        return self.share.new_zeros(grid * grid, self.share.shape[1]).index_copy(0, self.index, self.share)


def cells_of(scene: Scene, class_index: dict[str, int], size: int, grid: int) -> Cells:
    """Read the cells off the instance ids of the letterboxed picture. Words: the classes, then COLOURS."""
    sample = scene.sample(class_index)
    _, ids, _ = letterbox(np.zeros((*sample.ids.shape, 3), np.uint8), sample.ids, size)
    share = np.zeros((grid * grid, len(class_index) + len(COLOURS)), np.float32)
    places, parts = {}, {}
    for i, c in sample.classes.items():
        mask = ids == i
        area = int(mask.sum())
        if not area:
            continue
        covered = mask.reshape(grid, size // grid, grid, size // grid).mean((1, 3)).ravel()
        share[:, c] += covered
        parts[i] = torch.from_numpy((covered / covered.sum()).astype(np.float32))
        if colour := sample.colours[i]:
            share[:, len(class_index) + colour - 1] += covered
        rows, columns = np.nonzero(mask)
        places[i] = (float(columns.mean() + 0.5) / size, float(rows.mean() + 0.5) / size, area / size**2)
    covered = np.flatnonzero(share.sum(1) > 0.02)
    return Cells(torch.from_numpy(covered), torch.from_numpy(share[covered]), places, parts)


def _whole_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Fused attention in fp32 whatever the products are in: on a CPU, its way back is slow in bf16.

    For packed conversations, whose mask says who sees whom."""
    if mask is None:
        raise ValueError("packed conversations have a mask; without one everything would see what comes after it")
    with torch.autocast("cpu", enabled=False):
        q, k, v = query.float(), key.float(), value.float()
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    return seen.transpose(1, 2), None


WHOLE_ATTENTION = "lisa_whole"
AttentionInterface.register(WHOLE_ATTENTION, _whole_attention)


@dataclass
class Packed:
    """B rows of L positions. segs: (row, position that PREDICTS ``[SEG]``, object ids of its mask).

    images: cells (n,) and image tokens (n, H) of each row. presence: (row, position, whether what is named there is
    there). nouns, meant: (row, position, object ids that the state there points at).
    """

    embedded: Tensor
    positions: Tensor
    mask: Tensor
    answer_rows: Tensor
    answer_at: Tensor
    answer_ids: Tensor
    answer_weights: Tensor
    segs: list[tuple[int, int, list[int]]]
    images: list[tuple[Tensor, Tensor]]
    presence: list[tuple[int, int, bool]]
    nouns: list[tuple[int, int, list[int]]]
    meant: list[tuple[int, int, list[int]]]


def pack(
    lisa: Lisa, speech: Speech, images: list[tuple[Tensor, Tensor]], suffixes: list[list[Suffix]], num_cells: int
) -> Packed:
    """Put each picture's conversations behind its image tokens.

    images: for each row the cells (n,) and their tokens (n, H). Positions are those of the whole grid, so that leaving
    empty cells out changes nothing about where the others are.
    """
    before, after = speech.prefix()
    head = len(before) + num_cells + len(after)  # the position where every conversation begins
    embed = lisa.llama.embed_tokens
    rows, positions, groups, segs, answers, presence = [], [], [], [], [], []
    nouns, meant = [], []
    for row, ((cells, tokens), conversations) in enumerate(zip(images, suffixes, strict=True)):
        text = torch.tensor([i for suffix in conversations for i in suffix.ids])
        rows.append(torch.cat([embed(torch.tensor(before)), tokens, embed(torch.tensor(after)), embed(text)]))
        place = [torch.arange(len(before)), len(before) + cells, torch.arange(head - len(after), head)]
        group = [torch.zeros(len(before) + len(cells) + len(after), dtype=torch.long)]
        at = len(group[0])
        for number, suffix in enumerate(conversations, 1):
            place.append(head + torch.arange(len(suffix.ids)))
            group.append(torch.full((len(suffix.ids),), number))
            answers += [
                (row, at + t - 1, i, w) for t, (i, w) in enumerate(zip(suffix.ids, suffix.weights, strict=True)) if w
            ]
            presence += [(row, at + t - 1, there) for t, there in suffix.presence]
            nouns += [(row, at + t, members) for t, members in suffix.nouns]
            meant += [(row, at + t - 1, members) for t, members in suffix.meant]
            segs += [(row, at + t - 1, wanted) for t, wanted in zip(suffix.segs, suffix.targets, strict=True)]
            at += len(suffix.ids)
        positions.append(torch.cat(place))
        groups.append(torch.cat(group))
    longest = max(len(r) for r in rows)
    embedded = torch.stack([F.pad(r, (0, 0, 0, longest - len(r))) for r in rows])
    where = torch.stack([F.pad(p, (0, longest - len(p))) for p in positions])
    member = torch.stack([F.pad(g, (0, longest - len(g)), value=-1) for g in groups])
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    same = (member[:, :, None] == member[:, None]) | (member[:, None] == 0)
    answer = torch.tensor([entry[:3] for entry in answers])
    weights = torch.tensor([entry[3] for entry in answers])
    seen = (same & causal)[:, None]
    return Packed(embedded, where, seen, *answer.unbind(1), weights, segs, images, presence, nouns, meant)


def read_packed(lisa: Lisa, packed: Packed) -> tuple[Tensor, ...]:
    """Hidden states (B, L, H): before each layer, and at last those after the last norm."""
    return lisa.llama(
        inputs_embeds=packed.embedded,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states


def predict_packed(lisa: Lisa, packed: Packed, hidden: Tensor) -> Tensor:
    """Logits (A, V) of the answers' tokens, each with its own image."""
    states = states_at(hidden, packed.answer_rows, packed.answer_at)
    counts = torch.bincount(packed.answer_rows, minlength=len(packed.images)).tolist()
    rows = zip(states.split(counts), packed.images, strict=True)
    return torch.cat([lisa.predict(mine, tokens) for mine, (_, tokens) in rows])


def states_at(hidden: Tensor, rows: Sequence[int] | Tensor, at: Sequence[int] | Tensor) -> Tensor:
    """(n, H) of (B, L, H). One look for all of them: every look costs a tensor of zeros on the way back."""
    return hidden.flatten(0, 1)[torch.as_tensor(rows) * hidden.shape[1] + torch.as_tensor(at)]


def presence_loss(lisa: Lisa, packed: Packed, hidden: Tensor) -> Tensor:
    """How well the states that name a thing know whether it is there: BCE, or 0 for a model without that part."""
    if lisa.presence is None or not packed.presence:
        return hidden.sum() * 0.0
    rows, at, there = zip(*packed.presence, strict=True)
    states = states_at(hidden, rows, at)
    scores = [lisa.presence(mine, packed.images[row][1]) for row, mine in _by_row(rows, states)]
    return F.binary_cross_entropy_with_logits(torch.cat(scores).float(), torch.tensor(there, dtype=torch.float32))


def _by_row(rows: Sequence[int], states: Tensor) -> list[tuple[int, Tensor]]:
    """The states of each row that has some; ``rows`` never fall."""
    counts = Counter(rows)
    return list(zip(counts, states.split(list(counts.values())), strict=True))


class Pointing(nn.Module):
    """Helps to train: states in the middle of the language model point at the cells of what they are about.

    A noun of the question points at all that it names, a third of the way up; the answer's first words point at what
    is meant, two thirds up. "The thing left of the book" is two steps, and with each of them told the model learns
    them in a fraction of the time that the answer's words alone would take. Not part of the finished model.
    """

    def __init__(self, hidden_size: int, layers: int, width: int = 64):
        super().__init__()
        self.at = (max(1, layers // 3), max(1, 2 * layers // 3))
        self.query = nn.ModuleList(nn.Linear(hidden_size, width) for _ in self.at)
        self.key = nn.ModuleList(nn.Linear(hidden_size, width) for _ in self.at)

    def forward(self, states: tuple[Tensor, ...], packed: Packed, cells: list[Cells]) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the nouns and of what is meant, in nats. cells: of each row."""
        wanted = (packed.nouns, packed.meant)
        heads = zip(self.at, self.query, self.key, wanted, strict=True)
        nouns, meant = (self._loss(states[at], query, key, points, packed, cells) for at, query, key, points in heads)
        return nouns, meant

    def _loss(self, hidden: Tensor, query: nn.Linear, key: nn.Linear, points, packed: Packed, cells) -> Tensor:
        shown = [
            (row, at, [cells[row].parts[i] for i in members if i in cells[row].parts]) for row, at, members in points
        ]
        shown = [(row, at, torch.stack(parts).mean(0)) for row, at, parts in shown if parts]
        if not shown:
            return hidden.sum() * 0.0
        rows, at, parts = zip(*shown, strict=True)
        queries, losses, done = query(states_at(hidden, rows, at)), [], 0
        for row, mine in _by_row(rows, queries):
            index, tokens = packed.images[row]
            scores = (mine @ key(tokens).T).float() / query.out_features**0.5
            truth = torch.stack(parts[done : done + len(mine)])[:, index]
            losses.append(-(truth * scores.log_softmax(1)).sum(1))
            done += len(mine)
        return torch.cat(losses).mean()


def seg_truth(
    segs: list[tuple[int, int, list[int]]], scenes: list[Scene], cells: list[Cells], class_index: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Classes (S, K), place (S, 2) and whether one of several alike is meant (S,), for the masks of a batch."""
    classes, places = torch.zeros(len(segs), len(class_index)), torch.zeros(len(segs), 2)
    single = torch.zeros(len(segs))
    for s, (row, _, wanted) in enumerate(segs):
        objects = {o["id"]: o["class"] for o in scenes[row].record["objects"]}
        named = {objects[i] for i in wanted}
        for name in named:
            classes[s, class_index[name]] = 1
        others = [i for i, name in objects.items() if name in named and i not in wanted and i in cells[row].places]
        shown = [cells[row].places[i] for i in wanted if i in cells[row].places]
        if others and shown:
            x, y, _ = max(shown, key=lambda place: place[2])
            places[s, 0], places[s, 1], single[s] = x, y, 1.0
    return classes, places, single


Picture = Callable[[int, random.Random], tuple[Tensor, Tensor]]
"""A scene's number to the cells (n,) that are shown of it and their image tokens (n, H)."""


@dataclass(frozen=True)
class LanguageConfig:
    """One stage of the language model.

    pictures: a step. conversations: behind each. absent: share of them at least that ask for what is not there, where
    the supply has so many (the model that seldom hears of absence never refuses). drawn: masks decoded for each picture
    (stage 3). draw_weight: of their loss. covered_cells, empty_cells: at most so many of a picture become image
    tokens (None: all), and of each thing at least the one that shows most of it; a model in use sees all, but fewer
    cost less. kinds: share of each kind of conversation, where it shall not be the supply's own. precision: of
    products, as in vision.half_precision.
    """

    steps: int
    pictures: int = 8
    conversations: int = 8
    absent: float = 0.4
    lr: float = 2e-3
    lr_end: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.02
    drawn: int = 3
    draw_weight: float = 1.0
    empty_cells: int = 12
    covered_cells: int | None = None
    kinds: dict[str, float] | None = None
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        half_precision(self.precision)


class Library:
    """Scenes with what the language stages need of them, and a supply of fresh conversations."""

    def __init__(
        self,
        scenes: list[Scene],
        class_index: dict[str, int],
        speech: Speech,
        conversations: Conversations,
        size: int,
        grid: int,
    ):
        self.scenes = scenes
        self.class_index = class_index
        self.speech = speech
        self._conversations = conversations
        self.cells = [cells_of(scene, class_index, size, grid) for scene in scenes]
        self.size = size
        self.grid = grid

    def draw(
        self,
        count: int,
        each: int,
        rng: random.Random,
        absent: float = 0.0,
        kinds: dict[str, float] | None = None,
        split: str = "train",
    ) -> tuple[list[int], list[list[Suffix]]]:
        """``count`` scenes and ``each`` fresh conversations about each. What cannot be used is named and skipped."""
        chosen, suffixes = [], []
        while len(chosen) < count:
            number = rng.randrange(len(self.scenes))
            usable, record = [], self.scenes[number].record
            for conversation in self._mixed(record, each, rng, absent, split, {"kinds": kinds} if kinds else {}):
                try:
                    usable.append(self.speech.suffix(conversation, rng, record["objects"]))
                except ValueError as error:
                    log.warning("a conversation about scene %s is skipped: %s", self.scenes[number].record["id"], error)
            if usable:
                chosen.append(number)
                suffixes.append(usable)
        return chosen, suffixes

    def _mixed(self, record: dict, count: int, rng: random.Random, absent: float, split: str, how: dict) -> list[dict]:
        """``count`` conversations, a share of ``absent`` about what is not there."""
        if not absent:
            return self._conversations(record, rng, count, split, **how)
        supply = self._conversations(record, rng, 4 * count, split, **how)
        missing = [c for c in supply if not c["turns"][-1]["targets"]][: round(absent * count + rng.random() - 0.5)]
        return missing + [c for c in supply if c["turns"][-1]["targets"]][: count - len(missing)]

    def truth(self, number: int, wanted: list[int]) -> Tensor:
        """(size / 2, size / 2) float32: the mask of ``wanted`` at the mask decoder's grid, soft at edges."""
        scene = self.scenes[number]
        _, ids, _ = letterbox(np.zeros((*scene.ids.shape, 3), np.uint8), scene.ids, self.size)
        mask = torch.from_numpy(np.isin(ids, wanted)).float()
        return F.avg_pool2d(mask[None], 2)[0]


def train_language(
    lisa: Lisa,
    pointing: Pointing,
    library: Library,
    config: LanguageConfig,
    groups: list[dict],
    picture: Picture,
    extra_loss: Callable[[Tensor, Packed, list[int], random.Random], tuple[Tensor, dict[str, float]]],
    validate: Callable[[], dict[str, float]],
    on_report: Callable[[int, dict[str, float]], None],
    checkpoint: Path,
) -> None:
    """The loop of stages 2 and 3.

    groups: of AdamW, each with a ``factor`` of the learning rate. extra_loss: given hidden states, the packed batch and
    scene numbers. validate: asked every VALIDATE_EVERY steps and at the end. on_report: told every 50 steps.
    checkpoint: a file from which a stopped run goes on exactly where it was; gone at the end.
    """
    lisa.llama.set_attn_implementation(WHOLE_ATTENTION)
    groups = [*groups, {"params": list(pointing.parameters()), "factor": 1.0, "weight_decay": config.weight_decay}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    sums: dict[str, float] = {}
    since, denial = 0, library.speech.tokenizer.encode("that")[0]
    for step in range(_resume(checkpoint, trained, optimizer), config.steps):
        rng = random.Random(f"{config.seed}/{step}")
        numbers, suffixes = library.draw(config.pictures, config.conversations, rng, config.absent, config.kinds)
        with half_precision(config.precision):
            images = [picture(number, rng) for number in numbers]
            packed = pack(lisa, library.speech, images, suffixes, library.grid**2)
            states = read_packed(lisa, packed)
            logits = predict_packed(lisa, packed, states[-1]).float()
            presence = presence_loss(lisa, packed, states[-1])
            nouns, meant = pointing(states, packed, [library.cells[number] for number in numbers])
            extra, parts = extra_loss(states[-1], packed, numbers, rng)
        answer = F.cross_entropy(logits, packed.answer_ids, reduction="none")
        answer = (answer * packed.answer_weights).sum() / packed.answer_weights.sum()
        correct = (logits.argmax(-1) == packed.answer_ids).float()
        right, verdicts = correct.mean(), packed.answer_weights == VERDICT
        denials = verdicts & (packed.answer_ids == denial)
        optimizer.zero_grad(set_to_none=True)
        (answer + presence + POINT * (nouns + meant) + extra).backward()
        share = step / config.steps
        rate = config.lr_end + 0.5 * (config.lr - config.lr_end) * (1 + np.cos(np.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = float(rate * min(1.0, (step + 1) / config.warmup)) * group["factor"]
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        else:
            log.warning("step %d: the gradient is not finite; the step is skipped", step)
        since += 1
        for key, value in {
            "answer": float(answer.detach()),
            "right": float(right),
            "verdict": _share(correct[verdicts]),
            "denied": _share(correct[denials]),
            "presence": float(presence.detach()),
            "nouns": float(nouns.detach()),
            "meant": float(meant.detach()),
            **parts,
        }.items():
            sums[key] = sums.get(key, 0.0) + value
        if (step + 1) % 50 == 0 or step + 1 == config.steps:
            line = {key: value / since for key, value in sums.items()}
            if (step + 1) % VALIDATE_EVERY == 0 or step + 1 == config.steps:
                line |= validate()
            on_report(step + 1, line)
            sums, since = {}, 0
        if (step + 1) % SAVE_EVERY == 0:
            state = {"step": step + 1, "trained": [p.detach() for p in trained], "optimizer": optimizer.state_dict()}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    checkpoint.unlink(missing_ok=True)


@torch.no_grad()
def exactness(
    lisa: Lisa, library: Library, picture: Picture, split: str, count: int = 96, each: int = 12, seed: int = 0
) -> dict[str, float]:
    """Share of answers that greedy decoding gets right to the last token, over all and by kind.

    count: pictures. each: conversations about each. split: of the phrasings."""
    rng, right = random.Random(seed), {}
    for begin in range(0, count, 8):
        numbers, suffixes = library.draw(min(8, count - begin), each, rng, split=split)
        packed = pack(lisa, library.speech, [picture(n, rng) for n in numbers], suffixes, library.grid**2)
        wrong = predict_packed(lisa, packed, read_packed(lisa, packed)[-1]).argmax(-1) != packed.answer_ids
        ends = [sum(w > 0 for w in suffix.weights) for row in suffixes for suffix in row]
        for suffix, wrongs in zip((s for row in suffixes for s in row), wrong.split(ends), strict=True):
            for key in ("exact", f"exact {suffix.kind}"):
                right.setdefault(key, []).append(not bool(wrongs.any()))
    return {key: sum(results) / len(results) for key, results in sorted(right.items())}


@torch.no_grad()
def _resume(checkpoint: Path, trained: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Load what a stopped run left, if it left something. Returns the step to go on with."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    for parameter, value in zip(trained, state["trained"], strict=True):
        parameter.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    log.info("going on at step %d", state["step"])
    return int(state["step"])


def _share(correct: Tensor) -> float:
    """Mean of 0s and 1s; 1 of none, where nothing was wrong."""
    return float(correct.mean()) if len(correct) else 1.0
