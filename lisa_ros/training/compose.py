"""Where LISA began: a LLaVA checkpoint and SAM's official weights, put together as one untrained LISA."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.family import FAMILIES, Family
from lisa_ros.lisa.weights.tensors import find_files, iterate_tensors, read_shapes
from lisa_ros.training.sharded import ShardWriter
from lisa_ros.training.vocabulary import BY_TOKEN, base_tokens, grown, new_tokens, with_tokens


def compose(llava: Path, sam: Path, folder: Path, seed: int, family: Family = FAMILIES["lisa"]) -> None:
    """Write a LISA checkpoint: LLaVA's tensors and SAM's, new rows for the new tokens, an untrained projector.

    As in the reference, new rows are normal with the model's initializer_range. Takes the memory of one shard of LLaVA.

    Args:
        llava: A folder of LLaVA with one linear projector (LLaVA 1, LLaVA-Lightning).
        sam: sam_vit_h_4b8939.pth or another of SAM's.
        folder: To write.
        seed: Of what is drawn.
        family: Whose tokens are added.

    Raises:
        CheckpointError: One of the two is missing, damaged or another model.
    """
    config = _llava_config(llava)
    shapes = read_shapes(find_files(llava))
    if other := [name for name in shapes if name.startswith("model.mm_projector.") and name.count(".") > 2]:
        raise CheckpointError(
            f"{llava} has a projector of several layers ({other[0]}); LISA began with one linear layer"
        )
    sam_shapes = read_shapes([sam])
    if "prompt_encoder.no_mask_embed.weight" not in sam_shapes:
        raise CheckpointError(f"{sam} is not SAM: prompt_encoder.no_mask_embed.weight is missing")
    pieces, known = base_tokens(llava)
    added = with_tokens(known, pieces, new_tokens(family))
    vocabulary = max(added.values()) + 1
    channels, hidden = sam_shapes["prompt_encoder.no_mask_embed.weight"][1], int(config["hidden_size"])
    generator = torch.Generator().manual_seed(seed)
    writer = ShardWriter(folder)
    for file in find_files(llava):
        shard = {}
        for name, tensor in iterate_tensors([file]):
            if "vision_tower." in name or name.endswith("rotary_emb.inv_freq"):
                continue
            shard[name] = (
                grown(tensor, vocabulary, float(config.get("initializer_range", 0.02)), generator)
                if name in BY_TOKEN
                else tensor.clone()
            )
        writer.write(shard)
    writer.write({f"model.visual_model.{name}": tensor.clone() for name, tensor in iterate_tensors([sam])})
    writer.write(_seg_projector(hidden, channels, generator))
    settings = {"out_dim": channels, "train_mask_decoder": True, "mm_use_im_start_end": True, "vocab_size": vocabulary}
    for file in llava.glob("*token*"):
        if file.is_file() and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n", "utf-8")
    # Last, because a folder with config.json counts as whole.
    writer.close({**config, **settings, "architectures": [family.architecture], "tie_word_embeddings": False})


def _llava_config(folder: Path) -> dict[str, Any]:
    config = read_json_object(folder / "config.json", CheckpointError)
    if "mm_hidden_size" not in config:
        raise CheckpointError(f"{folder} is not LLaVA: its config.json has no mm_hidden_size")
    return config


def _seg_projector(hidden: int, channels: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The reference's text_hidden_fcs, as a linear layer of PyTorch begins."""
    tensors = {}
    for index, layer in ((0, nn.Linear(hidden, hidden)), (2, nn.Linear(hidden, channels))):
        bound = 1 / math.sqrt(hidden)
        for name, tensor in layer.state_dict().items():
            tensors[f"model.text_hidden_fcs.0.{index}.{name}"] = tensor.uniform_(-bound, bound, generator=generator)
    return tensors
