"""Merge trained weights and LoRA into their model; the result is a checkpoint that loads like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.family import FAMILIES, Family
from lisa_ros.lisa.weights.inspect import unknown_clip
from lisa_ros.lisa.weights.load import build_lisa, compare, shapes_of
from lisa_ros.lisa.weights.lora import LORA, fold
from lisa_ros.lisa.weights.names import PEFT_PREFIX, our_name, reference_name
from lisa_ros.lisa.weights.spec import Spec, read_spec, resolve_tower
from lisa_ros.lisa.weights.tensors import Shape, find_files, iterate_tensors, read_shapes
from lisa_ros.training.sharded import ShardWriter
from lisa_ros.training.snapshot import TRAINED, newest_snapshot, read_trained
from lisa_ros.training.vocabulary import base_tokens, new_tokens, with_tokens

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Number formats that a merged checkpoint can be stored in."""

_LLAVA_TOKENS = ("<im_patch>", "<im_start>", "<im_end>")
"""Of LLaVA-Lightning, in this order."""


def merge_run(
    run: Path,
    out: Path,
    *,
    weights: str | None = None,
    start: Path | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a run's weights into the model it started from.

    The start is read from its own files, in full precision even if it was trained in four bits.

    Args:
        run: The run's folder.
        out: Folder to write.
        weights: ``best`` or ``last``; None: best if the run was validated, else last.
        start: The model that the run started from; None: where it was then.
        dtype: Of all weights; None: as they are.

    Raises:
        CheckpointError: The run has saved nothing, or the start is missing or another model.
    """
    trained, metadata = read_trained(_weights_of(run, weights))
    base = start or Path(metadata.get("start", ""))
    if not (base / "config.json").is_file():
        raise CheckpointError(f"the model that {run} started from is not at {base}; say where with --start")
    tower = Path(metadata["tower"]) if metadata.get("tower") else None
    _fold(base, trained, float(metadata.get("scale", "0")), out, dtype, tower, metadata.get("conversation"))


def merge_checkpoint(source: Path, out: Path, *, alpha: float, dtype: torch.dtype | None = None) -> None:
    """Merge a checkpoint with LoRA beside the weights it belongs to, as zero_to_fp32 and peft leave it.

    Args:
        source: The checkpoint's folder.
        out: Folder to write.
        alpha: Of LoRA; the rank is read off the tensors.
        dtype: Of all weights; None: as they are.

    Raises:
        CheckpointError: It has no LoRA, or several ranks, or is damaged.
    """
    files = find_files(source)
    if not any(LORA.fullmatch(name) for name in read_shapes(files)):
        raise CheckpointError(f"{source} has no LoRA weights; there is nothing to merge")
    lora = {
        name.removeprefix(PEFT_PREFIX): tensor.clone()
        for name, tensor in iterate_tensors(files)
        if LORA.fullmatch(name)
    }
    ranks = {tensor.shape[0] for name, tensor in lora.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise CheckpointError(f"{source} mixes LoRA ranks {sorted(ranks)}; the scale of each is not known")
    _fold(source, lora, alpha / ranks.pop(), out, dtype)


def merge_file(file: Path, base: Path, out: Path, *, alpha: float = 16.0, dtype: torch.dtype | None = None) -> None:
    """Merge GSVA's released file, one ``.bin`` with a whole model and its LoRA, into a folder like any other.

    Merged matrices are stored as float32, so that nothing is rounded; all other tensors are copied. The CLIP tower in
    the file is left out, as in the released checkpoints of LISA.

    Args:
        file: The state dict.
        base: Folder of the LLaVA that the model was trained from; its config.json and tokenizer are used.
        out: Folder to write.
        alpha: Of LoRA; the rank of each matrix is read off its tensors.
        dtype: Of all weights; None: as they are.

    Raises:
        CheckpointError: Tensors are missing or do not belong to the model, or the base is another one's.
    """
    family = FAMILIES["gsva"]
    shapes = {_plain(name): shape for name, shape in read_shapes([file]).items()}
    rows = _rows(file, shapes)
    added = _added_tokens(base, family, rows)
    config = read_json_object(base / "config.json", CheckpointError) | {
        "architectures": [family.architecture],
        "lisa": {"family": family.name, "added_tokens": "strip" if family.strips_blanks else "keep"},
        "mm_use_im_start_end": True,
        "out_dim": shapes.get("model.text_hidden_fcs.0.2.weight", (256,))[0],
        "tie_word_embeddings": False,
        "train_mask_decoder": True,
        "vocab_size": rows,
    }
    _check_file(file, shapes, config)
    lora = {_plain(name): tensor.clone() for name, tensor in iterate_tensors([file]) if LORA.fullmatch(name)}
    tower = _tower(_spec_of(config), base)
    writer = ShardWriter(out)
    _write_folded([file], lora, lambda down: alpha / len(down), writer, dtype, merged_as=torch.float32)
    _copy_words(base, out)
    (out / "added_tokens.json").write_text(json.dumps(added, indent=2) + "\n", "utf-8")
    if tower is not None and _tower(_spec_of(config), out) is None:
        config["mm_vision_tower"] = str(tower.resolve())
    writer.close(config)
    read_spec(out)


def _weights_of(run: Path, weights: str | None) -> Path:
    best = run / "best" / TRAINED
    if weights == "best" or (weights is None and best.is_file()):
        return best
    snapshot = newest_snapshot(run / "state")
    if snapshot is None:
        raise CheckpointError(f"{run} has saved nothing yet")
    return snapshot / TRAINED


def _fold(
    base: Path,
    trained: Mapping[str, Tensor],
    scale: float,
    out: Path,
    dtype: torch.dtype | None,
    tower: Path | None = None,
    conversation: str | None = None,
) -> None:
    writer = ShardWriter(out)
    try:
        vocabulary = _write_folded(find_files(base), trained, lambda down: scale, writer, dtype)
    except KeyError as error:
        raise CheckpointError(f"{base} is not the model that was trained: it has no {error.args[0]}") from error
    _copy_words(base, out)
    writer.close(_config(base, out, vocabulary, tower, conversation))
    read_spec(out)


def _write_folded(
    files: list[Path],
    trained: Mapping[str, Tensor],
    scale: Callable[[Tensor], float],
    writer: ShardWriter,
    dtype: torch.dtype | None,
    merged_as: torch.dtype | None = None,
) -> int | None:
    """Write the tensors of ``files`` with ``trained`` in them, a shard for each file.

    Args:
        files: Weights.
        trained: LoRA pairs, and tensors that replace those in the files.
        scale: From LoRA's A (rank, in) to its scale.
        writer: Takes the shards.
        dtype: Of all weights; None: as they are.
        merged_as: Of matrices with LoRA where ``dtype`` is None; None: as they are.

    Returns:
        Number of rows of the embedding; None if it is not there.

    Raises:
        KeyError: A tensor of ``trained`` has no place in the files.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in trained.items():
        if match := LORA.fullmatch(name):
            pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
        else:
            whole[name] = tensor
    waiting = {*pairs, *whole}
    vocabulary = None
    for file in files:
        shard = {}
        for theirs, tensor in iterate_tensors([file]):
            name = _plain(theirs)
            if LORA.fullmatch(name) or _is_clip(name) or name.endswith("rotary_emb.inv_freq"):
                continue
            result, stored_as = tensor, tensor.dtype
            if name in pairs:
                down, up = pairs[name]["A"], pairs[name]["B"]
                result, stored_as = fold(tensor, down, up, scale(down)), merged_as or stored_as
            elif name in whole:
                result = whole[name]
            waiting.discard(name)
            if dtype is not None and tensor.is_floating_point():
                stored_as = dtype
            shard[name] = result.to(stored_as, copy=True)
            if name == "model.embed_tokens.weight":
                vocabulary = len(result)
        writer.write(shard)
    if waiting:
        raise KeyError(min(waiting))
    return vocabulary


def _plain(name: str) -> str:
    """The reference's name of a tensor inside PEFT's wrapper; newer releases of peft say ``base_layer``."""
    return name.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")


# --- one file with a whole model ---


def _rows(file: Path, shapes: Mapping[str, Shape]) -> int:
    """Rows of the embedding, after a check that the file holds a whole model and its LoRA."""
    if not any(LORA.fullmatch(name) for name in shapes):
        raise CheckpointError(f"{file} has no LoRA weights; there is nothing to merge")
    if "model.embed_tokens.weight" not in shapes:
        raise CheckpointError(
            f"{file} is not a whole model: it has no model.embed_tokens.weight; merge a folder that holds the model "
            "beside its LoRA with 'lisa merge FOLDER --out OTHER'"
        )
    return shapes["model.embed_tokens.weight"][0]


def _added_tokens(base: Path, family: Family, rows: int) -> dict[str, int]:
    """The table of tokens that the embedding's ``rows`` belong to: those of the base, then the family's.

    LLaVA-Lightning has three tokens of its own, which its folder may not list; other bases have none.

    Raises:
        CheckpointError: No such table has ``rows`` rows.
    """
    known = base_tokens(base)
    pieces = known.pieces
    tables = [known.added] if known.added else [{}, {token: pieces + i for i, token in enumerate(_LLAVA_TOKENS)}]
    extended = [with_tokens(table, pieces, new_tokens(family)) for table in tables]
    for table in extended:
        if pieces + len(table) == rows:
            return dict(sorted(table.items(), key=lambda one: one[1]))
    possible = " or ".join(str(pieces + len(table)) for table in extended)
    raise CheckpointError(
        f"{base} is not the base of this file: the file's embedding has {rows} rows, the tokenizer of the base with "
        f"the tokens of {family.name} has {possible}; give another --base"
    )


def _check_file(file: Path, shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> None:
    """Raise CheckpointError naming tensors that are missing from the file, or that have no place in the model."""
    own = {name: shape for name, shape in shapes.items() if not _is_clip(name)}
    pairs: dict[str, dict[str, Shape]] = {}
    for name, shape in own.items():
        if match := LORA.fullmatch(name):
            pairs.setdefault(match[1], {})[match[2]] = shape
    for layer, pair in sorted(pairs.items()):
        if len(pair) < 2:
            raise CheckpointError(f"{file}: {layer} has lora_{min(pair)} without the other of A and B")
        if (weight := own.get(f"{layer}.weight")) is None:
            raise CheckpointError(f"{file}: {layer} has LoRA, but {layer}.weight is missing")
        down, up = pair["A"], pair["B"]
        if (up[0], down[1]) != weight or up[1] != down[0]:
            raise CheckpointError(f"{file}: {layer} has the shape {weight}, its LoRA A {down} and B {up}")
    spec = _spec_of(config)
    model = {name: shape for name, shape in own.items() if not LORA.fullmatch(name)}
    try:
        with torch.device("meta"):
            lisa = build_lisa(spec, model, unknown_clip(spec))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{file}: its tensors and the config.json of the base do not fit: {error}") from error
    expected = {name: shape for name, shape in shapes_of(lisa).items() if not name.startswith("vision_tower.")}
    found = {ours: shape for name, shape in model.items() if (ours := our_name(lisa, name))}
    compare(found, expected, partial(reference_name, lisa), file)


def _spec_of(config: Mapping[str, Any]) -> Spec:
    """What a folder with this config.json would say."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), "utf-8")
        return read_spec(Path(folder))


def _is_clip(name: str) -> bool:
    """A CLIP tower stays in its own folder, as in the released checkpoints; a tower that is shared is the model's."""
    return name.startswith("model.vision_tower.vision_tower.")


def _copy_words(base: Path, out: Path) -> None:
    for file in base.iterdir():
        is_words = "token" in file.name or file.name in ("generation_config.json", "README.md", "LICENSE")
        if file.is_file() and is_words and not file.name.endswith(".index.json"):
            shutil.copyfile(file, out / file.name)


def _config(
    base: Path, out: Path, vocabulary: int | None, tower: Path | None, conversation: str | None
) -> dict[str, Any]:
    """The base's config.json; where the CLIP tower would not be found from the new place, with the path to it.

    tower, conversation: what the run used; None: what the base's own configuration leads to.
    """
    config = read_json_object(base / "config.json", CheckpointError)
    if vocabulary is not None:
        config["vocab_size"] = vocabulary
    if "lisa" in config:
        config["lisa"].pop("name", None)  # the folder's name is its name
    spec = read_spec(base)
    if conversation and conversation != spec.conversation:
        config.setdefault("lisa", {})["conversation"] = conversation
    tower = tower or _tower(spec, base)
    if tower is not None and _tower(spec, out) is None:
        config["mm_vision_tower"] = str(tower.resolve())
    return config


def _tower(spec: Spec, folder: Path) -> Path | None:
    try:
        return resolve_tower(None, spec, folder)
    except CheckpointError:
        return None
