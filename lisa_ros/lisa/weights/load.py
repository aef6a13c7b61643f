"""A model folder to a filled model, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaModel, SamModel

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import Precision, restore_constants
from lisa_ros.lisa.model.sam import infer_sam_config, new_sam, sam_without_encoder
from lisa_ros.lisa.weights.names import PEFT_PREFIX, SAM_PREFIX, clip_name, our_name, reference_name
from lisa_ros.lisa.weights.networks import Networks, networks_for
from lisa_ros.lisa.weights.spec import ClipFolder, Spec, read_spec
from lisa_ros.lisa.weights.tensors import Shape, find_files, iterate_tensors, read_shapes

MOST_LAYERS, MOST_SIDE = 1000, 8192  # far above any model's; pixels


def build_lisa(
    spec: Spec, shapes: Mapping[str, Shape], clip: ClipFolder | None = None, networks: Networks | None = None
) -> Lisa:
    """Build LISA without weights.

    Args:
        spec: Content of config.json.
        shapes: Shape of each tensor, by the reference's name; the sizes of SAM follow from them.
        clip: The CLIP tower, if the model has one.
        networks: Networks in place of the paper's.

    Raises:
        CheckpointError: A tensor is missing, or a size is too large.
        Exception: What torch raises for sizes that do not fit together.
    """
    networks = networks or Networks()
    _check_sizes(spec, clip)
    llama = LlamaModel(spec.llama)
    sam = _build_sam(spec, shapes, networks)
    hidden = spec.llama.hidden_size
    return Lisa(
        vision_tower=networks.vision_tower(spec, clip, sam),
        image_projector=_image_projector(spec, shapes),
        llama=llama,
        lm_head=nn.Linear(hidden, spec.llama.vocab_size, bias=False),
        seg_projector=nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, spec.out_dim)),
        sam=sam,
        presence=networks.presence(spec),
    )


def _image_projector(spec: Spec, shapes: Mapping[str, Shape]) -> nn.Module:
    """From CLIP's features to image tokens, as LLaVA builds it: ``mlp2x_gelu`` is linear, GELU, linear.

    References whose projector is always one layer keep the name of another one in a config.json that they start from.
    """
    hidden = spec.llama.hidden_size
    if spec.projector == "identity":
        return nn.Identity()
    first = nn.Linear(spec.mm_hidden_size, hidden)
    if spec.projector == "linear" or "model.mm_projector.weight" in shapes:
        return first
    depth = int(spec.projector.removeprefix("mlp").removesuffix("x_gelu"))
    more = [layer for _ in range(depth - 1) for layer in (nn.GELU(), nn.Linear(hidden, hidden))]
    return nn.Sequential(first, *more)


def _check_sizes(spec: Spec, clip: ClipFolder | None) -> None:
    """Raise CheckpointError for numbers of layers or pixels that would need absurd amounts of memory or time.

    The width of tensors needs no check: it is compared with the file's shapes before memory is allocated.
    """
    encoder = spec.image_encoder or {}
    blocks = sum(int(count) for _, _, count, _ in encoder.get("stages", [])) + int(encoder.get("neck_blocks", 0))
    for what, value, most in (
        ("num_hidden_layers", spec.llama.num_hidden_layers, MOST_LAYERS),
        ("num_hidden_layers of the CLIP tower", clip.config.num_hidden_layers if clip else 0, MOST_LAYERS),
        ("layers of the image encoder", blocks, MOST_LAYERS),
        ("image_size", spec.image_size or 0, MOST_SIDE),
    ):
        if value > most:
            raise CheckpointError(f"config.json of {spec.name}: {what} is {value}; at most {most} is accepted")


def _build_sam(spec: Spec, shapes: Mapping[str, Shape], networks: Networks) -> SamModel:
    sam_shapes = {k.removeprefix(SAM_PREFIX): v for k, v in shapes.items() if k.startswith(SAM_PREFIX)}
    encoder = networks.image_encoder(spec)
    if encoder is None:
        sam = new_sam(infer_sam_config(sam_shapes))
    else:
        sam = sam_without_encoder(sam_shapes, spec.image_size or 256, encoder.stride)
        sam.vision_encoder = cast(Any, encoder)  # declared as SAM's own ViT
    # One matrix serves the grid and the points; transformers keeps it twice.
    sam.prompt_encoder.shared_embedding = sam.shared_image_embedding
    return sam


def load_lisa(
    folder: Path,
    clip: ClipFolder | None,
    precision: Precision,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
    spec: Spec | None = None,
) -> tuple[Lisa, Spec]:
    """Build LISA and load its weights, one tensor at a time, each directly to its device and precision.

    The peak of memory is that of the loaded model and one tensor.

    Args:
        folder: Folder of the checkpoint.
        clip: The CLIP tower, if the model has one.
        precision: Number format.
        device: Where the model goes.
        progress: Called with the loaded share, in [0, 1].
        spec: Content of config.json; None reads it.

    Raises:
        CheckpointError: A file is damaged, or tensors are missing, unexpected or of another shape. The message lists
            their names.
    """
    spec = spec or read_spec(folder)
    files = find_files(folder)
    shapes = {name.removeprefix(PEFT_PREFIX): shape for name, shape in read_shapes(files).items()}
    if "model.embed_tokens.weight" in shapes:
        spec.llama.vocab_size = shapes["model.embed_tokens.weight"][0]
    try:
        with torch.device("meta"):
            lisa = build_lisa(spec, shapes, clip, networks_for(folder))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{folder}: config.json and the shapes of the tensors do not describe a LISA: {error}"
        ) from error
    sources: list[tuple[list[Path], Callable[[str], str | None]]] = [(files, partial(our_name, lisa))]
    if clip is not None and not any(name.startswith("model.vision_tower.") for name in shapes):
        sources.append((find_files(clip.folder), partial(clip_name, lisa)))
    found = {ours: shape for names, rename in sources for k, shape in read_shapes(names).items() if (ours := rename(k))}
    compare(found, shapes_of(lisa), partial(reference_name, lisa), folder)
    precision.prepare(lisa.llama)
    total = sum(file.stat().st_size for names, _ in sources for file in names)
    done = 0
    for names, rename in sources:
        for name, tensor in iterate_tensors(names):
            if target := rename(name):
                precision.assign(lisa, target, tensor, device)
            done += tensor.nbytes
            if progress is not None:
                progress(min(done / total, 1.0))
    restore_constants(lisa, device)
    return lisa.eval().requires_grad_(False), spec


def save_checkpoint(lisa: Lisa, config: dict[str, Any], folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors`` with the reference's names, for :func:`load_lisa`.

    A CLIP tower is not written, as in the released checkpoints. A tower that shares SAM's encoder is written.

    Args:
        lisa: The model.
        config: The whole content of config.json.
        folder: Folder to write; it may exist.
        dtype: Number format of the file; None keeps each tensor's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        reference_name(lisa, name): (tensor.detach().to(dtype) if dtype else tensor.detach()).contiguous().cpu()
        for name, tensor in named_tensors(lisa)
        if lisa.shares_encoder or not name.startswith("vision_tower.")
    }
    with replacing(folder / "model.safetensors") as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
    with replacing(folder / "config.json") as unfinished:
        unfinished.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, each tensor once."""
    yield from module.named_parameters()
    saved = module.state_dict(keep_vars=True)
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name in saved)


def shapes_of(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(module)}


def compare(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], theirs: Callable[[str], str], where: Path
) -> None:
    """Compare the tensors of a file with those of the model.

    Args:
        found: Shape by our name, in the file.
        expected: Shape by our name, in the model.
        theirs: Our name to the name in the file.
        where: The file or folder, for the error.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of another shape. The message lists their names in the file.
    """
    missing = [theirs(name) for name in sorted(set(expected) - set(found))]
    extra = [theirs(name) for name in sorted(set(found) - set(expected))]
    misshapen = [
        f"{theirs(name)} {found[name]} instead of {shape}"
        for name, shape in sorted(expected.items())
        if found.get(name, shape) != shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        for what, names in (("missing", missing), ("unexpected", extra), ("misshapen", misshapen))
        if names
    ]
    if any("lora_" in name for name in extra):
        problems.append("LoRA weights are not merged yet; merge them first with 'lisa merge'")
    if problems:
        raise CheckpointError(f"{where} does not fit LISA: {'; '.join(problems)}")
