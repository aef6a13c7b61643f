"""A vision tower that shares the image encoder's features, and recognises classes and colours in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lisa_ros.lisa.model.lisa import Lisa
from lisa_small.network.things import tell_apart


def tower_of(lisa: Lisa) -> SharedTower:
    """The shared tower of a demo model. Raises TypeError for a LISA with another one."""
    if not isinstance(lisa.vision_tower, SharedTower):
        raise TypeError(f"this LISA has a {type(lisa.vision_tower).__name__}, not the demo model's shared tower")
    return lisa.vision_tower


class SharedTower(nn.Module):
    """Image tokens for the language model from SAM's own image embedding: no second trunk.

    channels: C of the embedding. embedding_grid: its side. grid: tokens a side. out_channels: mm_hidden_size, divisible
    by 4. A convolution does not know where it is, so every token gets a learned vector for its place.
    classes, colours: where given, each cell of the embedding is first recognised as one of the classes and colours, and
    a token says too how much of it each covers, in learned words. For a small language model reading is far easier
    than seeing. things: a token says, too, how many things have their middle in it, and how much of it is covered by
    what is not the only one of its class; attention averages, and what averages cannot count.
    """

    reads_embedding = True

    def __init__(
        self,
        channels: int,
        grid: int,
        embedding_grid: int,
        out_channels: int,
        classes: int = 0,
        colours: int = 0,
        things: bool = False,
    ):
        super().__init__()
        if things and not classes:
            raise ValueError("things are told apart by their classes; this tower recognises none")
        if embedding_grid < grid:
            raise ValueError(f"{embedding_grid} cells of the embedding are too few for a grid of {grid} tokens")
        self.grid = grid
        self.side = embedding_grid // grid
        self.merge = nn.Conv2d(channels, out_channels, self.side, self.side)
        self.position = nn.Parameter(_places(grid, out_channels))
        self.recognition = Recognition(channels, classes, colours) if classes else None
        self.words = nn.Linear(classes + colours + 2 * things, out_channels, bias=False) if classes else None
        self.things = things

    @property
    def num_tokens(self) -> int:
        """Image tokens a picture."""
        return self.grid * self.grid

    @property
    def reader(self) -> tuple[Recognition, nn.Linear]:
        """What recognises cells, and the words for it: of a tower that was given classes."""
        assert self.recognition is not None and self.words is not None
        return self.recognition, self.words

    def forward(self, image_embedding: Tensor) -> Tensor:
        """(B, C, g, g) -> (B, grid * grid, out_channels), row by row."""
        cells = F.adaptive_avg_pool2d(image_embedding, self.grid * self.side)  # as it is, where the grid divides it
        tokens = self.merge(cells).flatten(2).transpose(1, 2) + self.position
        if self.recognition is None or self.words is None:
            return tokens
        return tokens + self.words(self.shares(image_embedding))

    def spoken(self, shares: Tensor, index: Tensor) -> Tensor:
        """Tokens (n, out_channels) of the cells ``index`` (n,) for a picture made of words alone: shares (n, words)."""
        _, words = self.reader
        return words(shares) + self.position[index]

    def class_map(self, image_embedding: Tensor) -> Tensor:
        """(1, C, g, g) -> probabilities (1 + classes, g, g) of each cell, background first."""
        recognition, _ = self.reader
        classes: Tensor = recognition(image_embedding)[0]
        return classes[0]

    def showing(self, labels: Sequence[int], cells: Sequence[int]) -> Tensor:
        """(grid * grid, out_channels) of a picture made of words: one thing of each of ``labels``, each filling one of
        ``cells``."""
        _, words = self.reader
        shares = words.weight.new_zeros(self.grid**2, words.in_features)
        shares[list(cells), list(labels)] = 1.0
        if self.things:
            shares[list(cells), -2] = 1.0  # its middle is there
        return self.spoken(shares, torch.arange(self.grid**2, device=shares.device))

    def shares(self, image_embedding: Tensor) -> Tensor:
        """(B, C, g, g) -> (B, grid * grid, classes + colours): the share of a token that each covers, in [0, 1].

        With things two more: how many have their middle there, and the share of what is not the only one of its class.
        """
        recognition, _ = self.reader
        classes, colours = recognition(image_embedding)
        seen = torch.cat([classes[:, 1:], colours], dim=1)
        shares = F.adaptive_avg_pool2d(seen, self.grid).flatten(2).transpose(1, 2)
        if not self.things:
            return shares
        return torch.cat([shares, self._things(classes.argmax(1), shares)], dim=2)

    def _things(self, labels: Tensor, shares: Tensor) -> Tensor:
        """(B, grid * grid, 2) of labels (B, g, g), 0 for background or 1 + a class, and shares (B, grid * grid, W)."""
        middles = np.zeros(shares.shape[:2], np.float32)
        several = np.zeros((len(shares), 1, shares.shape[2]), np.float32)
        for picture, seen in enumerate(labels.cpu().numpy()):
            found = tell_apart(seen)
            for thing in found:
                row, column = (at * self.grid // len(seen) for at in (thing.row, thing.column))
                middles[picture, row * self.grid + column] += 1
            counts = Counter(thing.label for thing in found)
            several[picture, 0, [label - 1 for label, count in counts.items() if count > 1]] = 1
        counted, marks = (torch.from_numpy(told).to(shares) for told in (middles, several))
        return torch.stack([counted, (shares * marks).sum(2)], dim=2)


class Recognition(nn.Module):
    """What a cell shows: one of the classes in one of the colours, or background, or of no one colour."""

    def __init__(self, channels: int, classes: int, colours: int):
        super().__init__()
        self.cell_class = nn.Conv2d(channels, classes + 1, 1)
        self.cell_colour = nn.Conv2d(channels, colours + 1, 1)

    def forward(self, image_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, g, g) -> probabilities (B, 1 + classes, g, g), background first, and (B, colours, g, g) of things."""
        classes = self.cell_class(image_embedding).softmax(1)
        colours = self.cell_colour(image_embedding).softmax(1)[:, 1:] * (1 - classes[:, :1])
        return classes, colours


def _places(grid: int, channels: int) -> Tensor:
    """(grid * grid, channels): sines and cosines of x in one half of the channels and of y in the other."""
    centres = (torch.arange(grid) + 0.5) / grid * torch.pi
    waves = centres[:, None] * torch.arange(1, channels // 4 + 1)
    line = torch.cat([waves.sin(), waves.cos()], dim=1)  # (grid, channels / 2)
    rows, columns = line[:, None].expand(-1, grid, -1), line[None].expand(grid, -1, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)
