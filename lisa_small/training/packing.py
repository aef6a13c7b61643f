"""Pictures and conversations packed for the language model: all conversations of a picture behind one image.

Each sees the image and itself, never its neighbours: what is read is what each would be alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_small.network.things import core
from lisa_small.network.tower import tower_of
from lisa_small.scenes.colours import COLOURS
from lisa_small.training.augment import letterbox_ids, middle
from lisa_small.training.dialogue import Speech, Suffix
from lisa_small.training.scenes import Scene

MIDDLES, ALIKE = -2, -1
"""Columns of a cell's share: how many things have their middle there, and what is not the only one of its class."""


@dataclass
class Cells:
    """What covers each cell of a picture's token grid. index: (n,) cells with an object.

    share: (n, words): of the cell that each class, and each colour, covers; how many things have their middle there;
    and the share of what is not the only one of its class.
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
    """Read the cells off the instance ids of the letterboxed picture. Words: the classes, COLOURS, middles, alike."""
    sample = scene.sample(class_index)
    ids = letterbox_ids(sample.ids, size)
    share = np.zeros((grid * grid, len(class_index) + len(COLOURS) + 2), np.float32)
    places, parts = {}, {}
    areas = np.bincount(ids.ravel(), minlength=256)
    shown = Counter(c for i, c in sample.classes.items() if areas[i])
    for i, c in sample.classes.items():
        area = int(areas[i])
        if not area:
            continue
        mask = ids == i
        covered = mask.reshape(grid, size // grid, grid, size // grid).mean((1, 3)).ravel()
        share[:, c] += covered
        parts[i] = torch.from_numpy((covered / covered.sum()).astype(np.float32))
        if colour := sample.colours[i]:
            share[:, len(class_index) + colour - 1] += covered
        row, column = core(mask)
        share[row * grid // size * grid + column * grid // size, MIDDLES] += 1
        if shown[c] > 1:
            share[:, ALIKE] += covered
        places[i] = (*middle(mask), area / size**2)
    covered = np.flatnonzero((share[:, :MIDDLES].sum(1) > 0.02) | (share[:, MIDDLES] > 0))
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
    there). nouns, asked, meant: (row, position, object ids that the state there points at). first_cell: position of
    the first image token.
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
    asked: list[tuple[int, int, list[int]]]
    meant: list[tuple[int, int, list[int]]]
    first_cell: int


def pack(
    lisa: Lisa, speech: Speech, images: list[tuple[Tensor, Tensor]], suffixes: list[list[Suffix]], num_cells: int
) -> Packed:
    """Put each picture's conversations behind its image tokens.

    images: for each row the cells (n,) and their tokens (n, H). Positions are those of the whole grid, so that leaving
    empty cells out changes nothing about where the others are.
    """
    before, after = speech.prefix()
    head = len(before) + num_cells + len(after)  # the position where every conversation begins
    rows, positions, groups, segs, answers, presence = [], [], [], [], [], []
    nouns, asked, meant = [], [], []
    for row, ((cells, tokens), conversations) in enumerate(zip(images, suffixes, strict=True)):
        text = [i for suffix in conversations for i in suffix.ids]
        ids = torch.tensor([[*before, *[IMAGE_ID] * len(cells), *after, *text]])
        rows.append(lisa.embed(ids, tokens[None])[0])
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
            asked += [(row, at + t - 1, members) for t, members in suffix.asked]
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
    answer_rows, answer_at, answer_ids = torch.tensor([entry[:3] for entry in answers]).unbind(1)
    weights = torch.tensor([entry[3] for entry in answers])
    seen = (same & causal)[:, None]
    return Packed(
        embedded,
        where,
        seen,
        answer_rows,
        answer_at,
        answer_ids,
        weights,
        segs,
        images,
        presence,
        nouns,
        asked,
        meant,
        len(before),
    )


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


def word_tokens(lisa: Lisa, cells: Cells, index: Tensor) -> Tensor:
    """Image tokens (n, H) of the cells ``index`` (n,) in a picture made of words: what covers each is said."""
    tower = tower_of(lisa)
    return lisa.image_projector(tower.spoken(cells.whole_share(tower.grid)[index], index))


def by_row(rows: Sequence[int]) -> list[tuple[int, slice]]:
    """Where the entries of each row stand; ``rows`` never fall."""
    found, begin = [], 0
    for row, count in Counter(rows).items():
        found.append((row, slice(begin, begin + count)))
        begin += count
    return found
