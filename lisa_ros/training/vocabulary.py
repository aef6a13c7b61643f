"""The vocabulary of a checkpoint that starts a training: its tokens, new ones, and their rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.family import Family
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.spec import read_spec
from lisa_ros.lisa.weights.tensors import find_files, iterate_tensors
from lisa_ros.training.sharded import ShardWriter

BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight", "model.presence.tokens")
"""Tensors with a row for every token."""


_DENSE = "model.visual_model.prompt_encoder.mask_downscaling.6"
_NO_MASK = "model.visual_model.prompt_encoder.no_mask_embed.weight"


class Vocabulary(NamedTuple):
    """Tokens of a checkpoint.

    Args:
        pieces: Number of sentencepiece's tokens.
        added: Id of each further token.
    """

    pieces: int
    added: dict[str, int]


def base_tokens(folder: Path) -> Vocabulary:
    """The tokens of a folder. Raises CheckpointError."""
    tokenizer = Tokenizer.from_folder(folder)
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).get_piece_size()
    return Vocabulary(pieces, {tokenizer.decode([i]): i for i in range(pieces, len(tokenizer))})


def new_tokens(family: Family) -> tuple[str, ...]:
    """What the references of a family add to a tokenizer, in their order."""
    own = (*family.list_tokens, family.coarse_token, family.mask_token, family.reject_token)
    return (*(token for token in own if token), "<im_start>", "<im_end>")


def with_tokens(added: Mapping[str, int], pieces: int, tokens: Sequence[str]) -> dict[str, int]:
    """``added`` with those of ``tokens`` that are not in it, in order, at the next free ids."""
    extended = dict(added)
    for token in tokens:
        extended.setdefault(token, pieces + len(extended))
    return extended


def grown(rows: Tensor, count: int, spread: float, generator: torch.Generator) -> Tensor:
    """(count, ...): the first rows of ``rows``, and new ones drawn from a normal distribution."""
    new = torch.randn(max(count - len(rows), 0), *rows.shape[1:], generator=generator) * spread
    return torch.cat([rows[:count], new.to(rows.dtype)])


def adopt(start: Path, family: Family, folder: Path, seed: int, *, fresh_mask_embed: bool = False) -> None:
    """Write ``start`` as a checkpoint of another family: its tokens are added, all else is copied.

    The row of a new token is that of the start's mask token with a little noise, so that training begins where a mask
    token already is one.

    Args:
        start: A checkpoint of LISA's network.
        family: Whose tokens are added.
        folder: To write.
        seed: Of the noise.
        fresh_mask_embed: Begin with a dense prompt that no coarse mask changes: that of a mask without a coarse one.

    Raises:
        CheckpointError: The start is damaged, or has no mask token.
    """
    spec, (pieces, known) = read_spec(start), base_tokens(start)
    if (like := known.get(spec.family.mask_token)) is None:
        raise CheckpointError(f"{start} has no token {spec.family.mask_token}; its added_tokens.json is missing")
    added = with_tokens(known, pieces, new_tokens(family))
    vocabulary = pieces + len(added)
    generator = torch.Generator().manual_seed(seed)
    writer = ShardWriter(folder)
    for file in find_files(start):
        shard = {}
        for name, tensor in iterate_tensors([file]):
            if name in BY_TOKEN:
                old = min(len(tensor), pieces + len(known))
                spread = 0.1 * float(tensor[:old].float().std())
                whole = grown(tensor[:old], vocabulary, spread, generator)
                whole[old:] += tensor[like]
                shard[name] = whole
            else:
                shard[name] = tensor.clone()
        if fresh_mask_embed and f"{_DENSE}.weight" in shard:
            shard[f"{_DENSE}.weight"].zero_()
            shard[f"{_DENSE}.bias"] = shard[_NO_MASK][0].clone()
        writer.write(shard)
    for file in start.iterdir():
        if file.suffix in (".json", ".model") and not file.name.endswith(".index.json") and file.name != "config.json":
            shutil.copyfile(file, folder / file.name)
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n", "utf-8")
    config = read_json_object(start / "config.json", CheckpointError)
    # What the start was trained with stays, where the family has another habit.
    own = {"conversation": spec.conversation, **config.get("lisa", {})}
    own |= {"family": family.name, "added_tokens": "strip" if spec.strips_blanks else "keep"}
    writer.close({**config, "architectures": [family.architecture], "lisa": own, "vocab_size": vocabulary})
