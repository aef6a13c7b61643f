"""What a checkpoint contains, whether it is complete, and how much memory it needs.

Only headers are read; weights up to ``SEARCHED_BYTES`` are also searched for NaN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SamModel

from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.lisa.family import FAMILIES, family_of
from lisa_ros.lisa.model.clip import num_patches
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import WHOLE
from lisa_ros.lisa.model.sam import embedding_side, infer_sam_config, new_sam, prompt_config, vision_config
from lisa_ros.lisa.preprocess import ClipPreprocessing
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import build_lisa, named_tensors, shapes_of
from lisa_ros.lisa.weights.names import PEFT_PREFIX, SAM_NAMES, is_text_half, our_name, reference_name
from lisa_ros.lisa.weights.networks import networks_for
from lisa_ros.lisa.weights.origin import RECORD
from lisa_ros.lisa.weights.spec import ClipFolder, Spec, read_clip, read_json, read_spec, resolve_tower
from lisa_ros.lisa.weights.substitute import missing_folder
from lisa_ros.lisa.weights.tensors import Shape, find_files, iterate_tensors

CACHE_TOKENS = 2048
SEARCHED_BYTES = 2_000_000_000
"""Weights up to this size are read whole, in a few seconds, to look for NaN."""
_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
# bitsandbytes, a weight: int8 with a float32 scale for each row; nf4 with a byte of scale for 64 weights, and a float32
# for 256 such bytes.
_NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
_SAM_VARIANTS = {(768, 12): "ViT-B", (1024, 24): "ViT-L", (1280, 32): "ViT-H"}
_CLIP_PREFIX = "model.vision_tower.vision_tower.vision_model."


@dataclass(frozen=True)
class Memory:
    """Memory at one precision, bytes.

    Args:
        weights: All weights.
        cache: Keys and values of a conversation.
        work: Largest intermediate results of one frame, estimated.
    """

    weights: int
    cache: int
    work: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.work


@dataclass
class Report:
    """Facts about a checkpoint that was not loaded.

    Args:
        name: Of the model.
        kind: LISA, CLIP, SAM, or locator and cutter.
        path: Folder or file.
        size: Of the weight files, bytes.
        files: Names of the weight files.
        dtypes: Number of parameters by type on disk.
        facts: Text by heading, in the order of printing.
        parameters: Number of parameters by part.
        cache_tokens: Tokens for which ``memory`` counts keys and values.
        memory: By precision.
        origin: Source, revision and date of ``lisa fetch``; empty for other folders.
        notes: What the user should know.
        problems: Reasons why the checkpoint cannot be used.
        missing: Names of tensors in the file.
        unexpected: Names of tensors in the file.
        misshapen: Names of tensors in the file, with their shapes.
    """

    name: str
    kind: str
    path: str
    size: int
    files: list[str]
    dtypes: dict[str, int]
    facts: dict[str, str]
    parameters: dict[str, int] = field(default_factory=dict)
    cache_tokens: int = 0
    memory: dict[str, Memory] = field(default_factory=dict)
    origin: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def compare(self, found: dict[str, Shape], expected: dict[str, Shape], on_disk: Callable[[str], str] = str) -> None:
        """Note every tensor that is missing, unexpected or of another shape. on_disk: its name in the user's file."""
        self.missing = sorted(on_disk(name) for name in set(expected) - set(found))
        self.unexpected = sorted(on_disk(name) for name in set(found) - set(expected))
        self.misshapen = sorted(
            f"{on_disk(name)} {found[name]} instead of {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        )
        for what in ("missing", "unexpected", "misshapen"):
            if names := getattr(self, what):
                self.problems.append(
                    f"{len(names)} {'tensor' if len(names) == 1 else 'tensors'} {what}: {_some(names)}"
                )


def inspect(path: Path) -> Report:
    """Inspect a LISA checkpoint, a CLIP folder or SAM's ``.pth`` file.

    Returns:
        The report. Faults that do not prevent it are in ``problems``.

    Raises:
        CheckpointError: ``path`` is none of these, or too damaged.
    """
    if path.is_file():
        return _inspect_sam(path)
    if not path.exists():
        raise CheckpointError(missing_folder(path))
    return _inspect_clip(path) if _is_clip(path) else _inspect_lisa(path)


# --- the three kinds ---


def _inspect_lisa(folder: Path) -> Report:
    config = read_json(folder, "config.json")
    family = _family(config)
    try:
        return _inspect_readable(folder, family)
    except CheckpointError as error:
        if not family:
            raise
        # What it is helps to find out what is wrong with it.
        facts = {"family": family}
        return Report(folder.resolve().name, "LISA", str(folder), 0, [], {}, facts, problems=[str(error)])


def _family(config: dict[str, Any]) -> str:
    """Name of the family; empty where config.json is of no family that this package knows."""
    named = "lisa" in config or any(
        family.architecture in (config.get("architectures") or []) for family in FAMILIES.values()
    )
    try:
        return family_of(config).name if named else ""
    except ConfigError:
        return ""


def _inspect_readable(folder: Path, family: str) -> Report:
    spec = read_spec(folder)
    files = find_files(folder)
    shapes, dtypes = read_headers(files)
    shapes = {name.removeprefix(PEFT_PREFIX): shape for name, shape in shapes.items()}
    if "model.embed_tokens.weight" in shapes:
        spec.llama.vocab_size = shapes["model.embed_tokens.weight"][0]
    report = Report(spec.name, "LISA", str(folder), size_of(files), [f.name for f in files], dtypes, {})
    report.origin = origin_of(folder)
    clip = _clip_of(spec, folder, report)
    try:
        with torch.device("meta"):
            lisa = build_lisa(spec, shapes, clip or unknown_clip(spec), networks_for(folder))
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        report.facts = {"family": spec.family.name}
        report.problems.append(f"config.json and the shapes of the tensors do not describe a LISA: {error}")
        return report
    _compare_lisa(report, lisa, shapes, clip)
    report.facts = _lisa_facts(spec, lisa, clip, folder, report)
    weighed = {
        name: tensor for name, tensor in named_tensors(lisa) if clip or not name.startswith("vision_tower.clip.")
    }
    report.parameters = _count(weighed)
    search_not_finite(report, files)
    report.cache_tokens = min(CACHE_TOKENS, spec.llama.max_position_embeddings)
    report.memory = {
        name: _lisa_memory(name, lisa, weighed, report.cache_tokens) for name in ("fp32", "bf16", "fp16", "int8", "nf4")
    }
    return report


def search_not_finite(report: Report, files: list[Path]) -> None:
    """Add a problem for tensors with NaN or infinity; large weights are not searched, which adds a note."""
    if report.size > SEARCHED_BYTES:
        report.notes.append(f"{gigabytes(report.size)} of weights were not searched for NaN or infinite values")
        return
    broken = [
        name for name, tensor in iterate_tensors(files) if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if broken:
        report.problems.append(
            f"{len(broken)} {'tensor holds' if len(broken) == 1 else 'tensors hold'} NaN or infinite values: "
            f"{_some(broken)}; the training diverged or the file is damaged, use another checkpoint"
        )


def _inspect_clip(folder: Path) -> Report:
    clip = read_clip(folder)
    files = find_files(folder)
    shapes, dtypes = read_headers(files)
    report = Report(folder.resolve().name, "CLIP", str(folder), size_of(files), [f.name for f in files], dtypes, {})
    report.origin = origin_of(folder)
    with torch.device("meta"):
        model = CLIPVisionModel(clip.config)
    vision = {name: shape for name, shape in shapes.items() if not is_text_half(name)}
    report.compare(
        {name.removeprefix("vision_model."): shape for name, shape in vision.items() if "position_ids" not in name},
        {name.removeprefix("vision_model."): tuple(tensor.shape) for name, tensor in named_tensors(model)},
    )
    report.facts = {"vision": _describe_clip(clip)}
    report.parameters = {"vision tower": sum(tensor.numel() for _, tensor in named_tensors(model))}
    return report


def _inspect_sam(file: Path) -> Report:
    shapes, dtypes = read_headers([file])
    report = Report(file.name, "SAM", str(file), file.stat().st_size, [file.name], dtypes, {})
    try:
        config = infer_sam_config(shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{file} is not SAM ({error}); for a checkpoint name its folder") from error
    with torch.device("meta"):
        sam = new_sam(config)
        sam.prompt_encoder.shared_embedding = sam.shared_image_embedding
    report.compare(
        {SAM_NAMES.ours(name): shape for name, shape in shapes.items()},
        shapes_of(sam),
        SAM_NAMES.theirs,
    )
    report.facts = {"masks": _describe_sam(sam)}
    report.parameters = _count({f"sam.{name}": tensor for name, tensor in named_tensors(sam)})
    return report


def _is_clip(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8-sig"))
    except (OSError, ValueError):
        return False  # whatever it is, reading it as LISA says what is wrong
    return isinstance(config, dict) and str(config.get("model_type", "")).startswith("clip")


def _clip_of(spec: Spec, folder: Path, report: Report) -> ClipFolder | None:
    try:
        tower = resolve_tower(None, spec, folder)
    except CheckpointError as error:
        report.notes.append(f"{error}. Its weights are not in the figures below")
        return None
    clip = read_clip(tower) if tower is not None else None
    if clip is not None and clip.config.hidden_size != spec.mm_hidden_size:
        report.problems.append(
            f"the CLIP tower in {tower} is {clip.config.hidden_size} wide, the checkpoint was trained with one of "
            f"{spec.mm_hidden_size}"
        )
        return None
    return clip


def unknown_clip(spec: Spec) -> ClipFolder:
    """Stands for a tower that is not on this machine, so that the rest can be built and compared."""
    config = CLIPVisionConfig(hidden_size=spec.mm_hidden_size, num_attention_heads=1, num_hidden_layers=1)
    return ClipFolder(Path(), config, ClipPreprocessing())


def _compare_lisa(report: Report, lisa: Lisa, shapes: dict[str, Shape], clip: ClipFolder | None) -> None:
    found = {ours: shape for name, shape in shapes.items() if (ours := our_name(lisa, name))}
    expected = shapes_of(lisa)
    if clip is not None and not any(name.startswith("model.vision_tower.") for name in shapes):
        tower, _ = read_headers(find_files(clip.folder))
        for name, shape in tower.items():
            ours = our_name(lisa, _CLIP_PREFIX + name.removeprefix("vision_model."))
            if ours and not is_text_half(name):
                found[ours] = shape
    elif clip is None and not lisa.shares_encoder:
        found = {name: shape for name, shape in found.items() if not name.startswith("vision_tower.")}
        expected = {name: shape for name, shape in expected.items() if not name.startswith("vision_tower.")}
    report.compare(found, expected, partial(reference_name, lisa))
    if any("lora_" in name for name in report.unexpected):
        report.problems.append("LoRA weights are not merged yet; merge them first with 'lisa merge'")


# --- words ---


def _lisa_facts(spec: Spec, lisa: Lisa, clip: ClipFolder | None, folder: Path, report: Report) -> dict[str, str]:
    llama = spec.llama
    shared_heads = f" ({llama.num_key_value_heads} for keys)" if _shares_heads(lisa) else ""
    facts = {
        "family": spec.family.name,
        "language": f"LLaMA, {llama.num_hidden_layers} layers, {llama.hidden_size} wide, {llama.num_attention_heads} "
        f"heads{shared_heads}, vocabulary {llama.vocab_size}, reads {llama.max_position_embeddings} tokens",
        "masks": _describe_sam(lisa.sam, spec),
    }
    if lisa.shares_encoder:
        facts["vision"] = f"shares the image encoder of the masks, {lisa.vision_tower.num_tokens} image tokens"
    elif clip is not None:
        facts["vision"] = f"{_describe_clip(clip)}, in {clip.folder}"
    else:
        facts["vision"] = f"CLIP {spec.tower}, not on this machine"
    facts["tokens"] = _describe_tokens(folder, spec, report)
    facts["conversation"] = f"{spec.conversation}, {'with' if spec.image_start_end else 'without'} <im_start>, <im_end>"
    return facts


def _describe_tokens(folder: Path, spec: Spec, report: Report) -> str:
    try:
        tokenizer = Tokenizer.from_folder(folder)
    except CheckpointError as error:
        report.problems.append(str(error))
        return "unknown"
    rows = spec.llama.vocab_size
    if len(tokenizer) > rows:
        report.problems.append(f"the tokenizer has {len(tokenizer)} tokens, the embedding only {rows} rows")
    needed = (*spec.family.tokens, *(("<im_start>", "<im_end>") if spec.image_start_end else ()))
    ids = {text: tokenizer.id_of(text) for text in needed}
    if lacking := [text for text in spec.family.tokens if ids[text] is None]:
        report.problems.append(
            f"the tokenizer has no {lacking[0]}, a token of {spec.family.name}; added_tokens.json is missing or of "
            "another family"
        )
    return ", ".join(f"{text} {i}" for text, i in ids.items() if i is not None) or f"no {spec.family.mask_token}"


def _describe_clip(clip: ClipFolder) -> str:
    config = clip.config
    return (
        f"CLIP, {config.num_hidden_layers} layers, {config.hidden_size} wide, {config.image_size} pixels, patches of "
        f"{config.patch_size}: {num_patches(config)} image tokens"
    )


def _describe_sam(sam: SamModel, spec: Spec | None = None) -> str:
    vision, prompt = vision_config(sam), prompt_config(sam)
    if spec is not None and spec.image_encoder is not None:
        encoder = f"{spec.image_encoder.get('kind', 'other')} image encoder"
    else:
        encoder = _SAM_VARIANTS.get((vision.hidden_size, vision.num_hidden_layers), "ViT")
        encoder = f"SAM {encoder} ({vision.num_hidden_layers} layers, {vision.hidden_size} wide)"
    grid = 4 * embedding_side(sam)
    return f"{encoder}, {prompt.image_size} pixels, mask grid {grid} x {grid}"


def _shares_heads(lisa: Lisa) -> bool:
    return lisa.llama.config.num_key_value_heads != lisa.llama.config.num_attention_heads


def origin_of(folder: Path) -> dict[str, Any]:
    """Source, revision and date out of fetch.json; empty where the folder was not fetched."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8-sig"))
        return {key: record.get(key) for key in ("source", "revision", "date")}
    except (OSError, ValueError, AttributeError):
        return {}


# --- numbers ---


def read_headers(files: list[Path]) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shape by name, and how many parameters there are of each type. The tensors stay on disk."""
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, int] = {}
    for name, tensor in iterate_tensors(files):
        shapes[name] = tuple(tensor.shape)
        dtype = str(tensor.dtype).removeprefix("torch.")
        dtypes[dtype] = dtypes.get(dtype, 0) + tensor.numel()
    return shapes, dtypes


def size_of(files: Iterable[Path]) -> int:
    """Bytes on disk."""
    return sum(file.stat().st_size for file in files)


_PARTS = {
    "language model": r"llama\..*|lm_head\..*|presence\..*",
    "vision tower": r"vision_tower\..*",
    "image encoder": r"sam\.vision_encoder\..*",
    "mask decoder": r"sam\..*",
    "projectors": r".*",
}


def _count(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Parameters by part."""
    counts = dict.fromkeys(_PARTS, 0)
    for name, tensor in tensors.items():
        part = next(part for part, pattern in _PARTS.items() if re.fullmatch(pattern, name))
        counts[part] += tensor.numel()
    return {part: count for part, count in counts.items() if count}


def _lisa_memory(precision: str, lisa: Lisa, tensors: dict[str, Tensor], cache_tokens: int) -> Memory:
    """What ``precision`` takes on a GPU. int8 and nf4 hold the decoder layers' matrices so, the rest in 16
    bits, what draws masks in 32."""
    whole = _BYTES.get(precision, 2.0)
    weights = 0.0
    for name, tensor in tensors.items():
        if name.startswith(WHOLE):
            weights += tensor.numel() * 4
        elif precision in _BYTES or tensor.dim() != 2 or not name.startswith("llama.layers."):
            weights += tensor.numel() * whole
        elif precision == "int8":
            weights += tensor.numel() + 4 * tensor.shape[0]
        else:
            weights += tensor.numel() * _NF4_BYTES
    config = lisa.llama.config
    heads = cast(int, config.num_key_value_heads) * (
        config.head_dim or config.hidden_size // config.num_attention_heads
    )
    cache = 2 * config.num_hidden_layers * heads * cache_tokens * whole
    return Memory(round(weights), round(cache), round(_encoder_work(lisa) * whole))


def _encoder_work(lisa: Lisa) -> int:
    """Numbers that the image encoder holds at its height, estimated.

    SAM's global attention adds a bias for every head and pair of patches, which is by far the largest; it is there
    twice while it is summed. Of the small model's convolutions we measured twenty times their input.
    """
    vision = vision_config(lisa.sam)
    if isinstance(getattr(lisa.sam.vision_encoder, "layers", None), nn.ModuleList) and vision.global_attn_indexes:
        patches = (lisa.input_size // cast(int, vision.patch_size)) ** 2
        return 2 * vision.num_attention_heads * patches**2
    return 20 * 3 * lisa.input_size**2


# --- the command ---


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _millions(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"


def _some(names: list[str], shown: int = 8) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def describe(report: Report) -> str:
    """The report as text for a person."""
    dtypes = ", ".join(sorted(report.dtypes, key=lambda dtype: -report.dtypes[dtype]))
    parameters = f", {_millions(sum(report.parameters.values()))} parameters" if report.parameters else ""
    lines = [f"{report.name}: {report.kind}{parameters}"]
    if report.origin:
        revision = f" at {report.origin['revision']}" if report.origin.get("revision") else ""
        lines.append(f"  {'source':15} {report.origin['source']}{revision}, {report.origin['date']}")
    if report.files:
        files = f"{len(report.files)} files" if len(report.files) > 1 else report.files[0]
        lines.append(f"  {'on disk':15} {gigabytes(report.size)}, {dtypes}, {files}")
    lines += [f"  {heading:15} {text}" for heading, text in report.facts.items()]
    lines += [f"  {part:15} {_millions(count)} parameters" for part, count in report.parameters.items()]
    if report.memory:
        cache = f"{report.cache_tokens} tokens" if report.cache_tokens else "cache"
        table: list[tuple[str, ...]] = [("memory", "weights", cache, "work, about", "in all")]
        table += [(name, *map(gigabytes, (m.weights, m.cache, m.work, m.total))) for name, m in report.memory.items()]
        lines += ["", *("  {:15}{:>10}{:>14}{:>14}{:>10}".format(*row) for row in table)]
        if "nf4" in report.memory:
            lines.append(
                "  int8 and nf4 beside 16-bit parts, as on a GPU; on a CPU those parts are fp32, twice as large"
            )
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join(lines)
