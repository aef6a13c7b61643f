"""A LISA checkpoint: what it says about itself, and its tensors under our names.

The reference's names (``visual_model``, ``vision_tower``, ``mm_projector``, ``text_hidden_fcs``) live here alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlamaModel, SamModel

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.model.lisa import ClipTower, Lisa, Presence
from lisa_ros.lisa.model.quantize import Precision, restore_constants, set_tensor
from lisa_ros.lisa.model.sam import infer_sam_config, new_sam, sam_without_encoder
from lisa_ros.lisa.preprocess import ClipPreprocessing
from lisa_ros.lisa.prompt import QuestionForms
from lisa_ros.lisa.weights.tensors import Shape, find_files, iterate_tensors, read_shapes
from lisa_small.network.conv import ConvImageEncoder, SharedTower

# The reference's name of a tensor | ours. {i} is a number, {rest} anything; the first line that matches wins. Read from
# left to right when loading, from right to left when saving.
_VIT_NAMES = """
image_encoder.patch_embed.proj.{rest}                      | vision_encoder.patch_embed.projection.{rest}
image_encoder.blocks.{i}.norm1.{rest}                      | vision_encoder.layers.{i}.layer_norm1.{rest}
image_encoder.blocks.{i}.norm2.{rest}                      | vision_encoder.layers.{i}.layer_norm2.{rest}
image_encoder.blocks.{i}.{rest}                            | vision_encoder.layers.{i}.{rest}
image_encoder.neck.0.{rest}                                | vision_encoder.neck.conv1.{rest}
image_encoder.neck.1.{rest}                                | vision_encoder.neck.layer_norm1.{rest}
image_encoder.neck.2.{rest}                                | vision_encoder.neck.conv2.{rest}
image_encoder.neck.3.{rest}                                | vision_encoder.neck.layer_norm2.{rest}
"""
_SAM_NAMES = """
image_encoder.{rest}                                       | vision_encoder.{rest}
prompt_encoder.pe_layer.positional_encoding_gaussian_matrix | shared_image_embedding.positional_embedding
prompt_encoder.point_embeddings.{rest}                     | prompt_encoder.point_embed.{rest}
prompt_encoder.mask_downscaling.0.{rest}                   | prompt_encoder.mask_embed.conv1.{rest}
prompt_encoder.mask_downscaling.1.{rest}                   | prompt_encoder.mask_embed.layer_norm1.{rest}
prompt_encoder.mask_downscaling.3.{rest}                   | prompt_encoder.mask_embed.conv2.{rest}
prompt_encoder.mask_downscaling.4.{rest}                   | prompt_encoder.mask_embed.layer_norm2.{rest}
prompt_encoder.mask_downscaling.6.{rest}                   | prompt_encoder.mask_embed.conv3.{rest}
mask_decoder.transformer.norm_final_attn.{rest}            | mask_decoder.transformer.layer_norm_final_attn.{rest}
mask_decoder.transformer.layers.{i}.norm1.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm1.{rest}
mask_decoder.transformer.layers.{i}.norm2.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm2.{rest}
mask_decoder.transformer.layers.{i}.norm3.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm3.{rest}
mask_decoder.transformer.layers.{i}.norm4.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm4.{rest}
mask_decoder.output_upscaling.0.{rest}                     | mask_decoder.upscale_conv1.{rest}
mask_decoder.output_upscaling.1.{rest}                     | mask_decoder.upscale_layer_norm.{rest}
mask_decoder.output_upscaling.3.{rest}                     | mask_decoder.upscale_conv2.{rest}
mask_decoder.output_hypernetworks_mlps.{i}.layers.0.{rest} | mask_decoder.output_hypernetworks_mlps.{i}.proj_in.{rest}
mask_decoder.output_hypernetworks_mlps.{i}.layers.1.{rest} | mask_decoder.output_hypernetworks_mlps.{i}.layers.0.{rest}
mask_decoder.output_hypernetworks_mlps.{i}.layers.2.{rest} | mask_decoder.output_hypernetworks_mlps.{i}.proj_out.{rest}
mask_decoder.iou_prediction_head.layers.0.{rest}           | mask_decoder.iou_prediction_head.proj_in.{rest}
mask_decoder.iou_prediction_head.layers.1.{rest}           | mask_decoder.iou_prediction_head.layers.0.{rest}
mask_decoder.iou_prediction_head.layers.2.{rest}           | mask_decoder.iou_prediction_head.proj_out.{rest}
{rest}                                                     | {rest}
"""
_LISA_NAMES = """
model.mm_projector.{rest}                                  | image_projector.{rest}
model.text_hidden_fcs.0.{rest}                             | seg_projector.{rest}
model.vision_tower.vision_tower.vision_model.{rest}        | vision_tower.clip.{rest}
model.vision_tower.{rest}                                  | vision_tower.{rest}
model.presence.{rest}                                      | presence.{rest}
lm_head.{rest}                                             | lm_head.{rest}
model.{rest}                                               | llama.{rest}
"""
_SAM_PREFIX = "model.visual_model."
# Before LoRA is merged, and in files that trainers write, the whole model is inside PEFT's wrapper.
PEFT_PREFIX = "base_model.model."
MOST_LAYERS, MOST_SIDE = 1000, 8192  # far above any model's; pixels
# Buffers that older releases saved and nobody reads: a rotary table (recomputed in fp32) and CLIP's position counter.
_IGNORED = re.compile(r".*(rotary_emb\.inv_freq|embeddings\.position_ids)$")


class Names:
    """The two directions of a table of names."""

    def __init__(self, *tables: str):
        rows = [[side.strip() for side in line.split("|")] for table in tables for line in table.strip().splitlines()]
        self._to_ours = [(_pattern(theirs), ours) for theirs, ours in rows]
        self._to_theirs = [(_pattern(ours), theirs) for theirs, ours in rows]

    def ours(self, theirs: str) -> str:
        return _translate(theirs, self._to_ours)

    def theirs(self, ours: str) -> str:
        return _translate(ours, self._to_theirs)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{rest\}", r"(?P<rest>.+)"))


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in table:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    return name


SAM_NAMES = Names(_VIT_NAMES, _SAM_NAMES)
"""The official SAM, and SAM inside LISA with its ViT."""
_SAM_NAMES_OTHER_ENCODER = Names(_SAM_NAMES)
_NAMES = Names(_LISA_NAMES)


def _sam_names(sam: SamModel) -> Names:
    return _SAM_NAMES_OTHER_ENCODER if isinstance(sam.vision_encoder, ConvImageEncoder) else SAM_NAMES


def our_name(lisa: Lisa, theirs: str) -> str | None:
    """Our name of a tensor of the reference; None for one that is not loaded."""
    theirs = theirs.removeprefix(PEFT_PREFIX)
    if _IGNORED.fullmatch(theirs):
        return None
    if theirs.startswith(_SAM_PREFIX):
        return "sam." + _sam_names(lisa.sam).ours(theirs.removeprefix(_SAM_PREFIX))
    ours = _NAMES.ours(theirs)
    return None if _is_unread_layer(lisa, ours) else ours


def reference_name(lisa: Lisa, ours: str) -> str:
    """The reference's name of one of our tensors."""
    if ours.startswith("sam."):
        return _SAM_PREFIX + _sam_names(lisa.sam).theirs(ours.removeprefix("sam."))
    return _NAMES.theirs(ours)


def _clip_name(lisa: Lisa, theirs: str) -> str | None:
    """Our name of a tensor of a CLIP folder; None for CLIP's text half, its projections and layers nobody reads."""
    if is_text_half(theirs) or _IGNORED.fullmatch(theirs):
        return None
    ours = "vision_tower.clip." + theirs.removeprefix("vision_model.")
    return None if _is_unread_layer(lisa, ours) else ours


def is_text_half(theirs: str) -> bool:
    """Whether a tensor of a CLIP folder belongs to its text half or its projections, which LISA does not use."""
    return theirs.startswith(("text_model.", "logit_scale", "visual_projection", "text_projection"))


def _is_unread_layer(lisa: Lisa, ours: str) -> bool:
    """Whether a CLIP tensor belongs to a layer after the one LISA takes its features from."""
    match = re.match(r"vision_tower\.clip\.encoder\.layers\.(\d+)\.", ours)
    tower = lisa.vision_tower
    return match is not None and isinstance(tower, ClipTower) and int(match[1]) >= tower.clip.config.num_hidden_layers


@dataclass(frozen=True)
class Spec:
    """What config.json of a checkpoint says, with the reference's defaults where it is silent."""

    name: str
    llama: LlamaConfig
    image_start_end: bool
    tower: str | None
    select_layer: int
    mm_hidden_size: int
    out_dim: int
    conversation: str = "llava_v1"
    image_size: int | None = None
    image_encoder: dict[str, Any] | None = None
    shared_tower: dict[str, Any] | None = None
    presence: bool = False
    smallest_part: float = 0.0
    questions: QuestionForms = field(default_factory=QuestionForms)


def read_spec(folder: Path) -> Spec:
    """Read config.json. Raises CheckpointError where it is missing, damaged or not LISA's."""
    config = _read_json(folder, "config.json")
    if not config.get("train_mask_decoder") and "lisa" not in config:
        kind = (config.get("architectures") or [config.get("model_type", "of an unknown kind")])[0]
        raise CheckpointError(f"{folder} is {kind}, not a LISA checkpoint (its config.json has no train_mask_decoder)")
    try:
        own = config.get("lisa") or {}
        return Spec(
            name=str(own.get("name", folder.resolve().name)),
            llama=_llama_config(config),
            image_start_end=bool(config.get("mm_use_im_start_end", True)),
            tower=config.get("mm_vision_tower") or config.get("vision_tower"),
            select_layer=int(config.get("mm_vision_select_layer", -2)),
            mm_hidden_size=int(config["mm_hidden_size"]),
            out_dim=int(config.get("out_dim", 256)),
            conversation=str(own.get("conversation", "llava_v1")),
            image_size=own.get("image_size"),
            image_encoder=own.get("image_encoder"),
            shared_tower=own.get("vision_tower"),
            presence=bool(own.get("presence", False)),
            smallest_part=float(own.get("smallest_part", 0.0)),
            questions=QuestionForms(**own.get("questions", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json in {folder} lacks or garbles {error}") from error
    except StrictDataclassError as error:  # how transformers 5 says that sizes do not go together
        raise CheckpointError(f"config.json in {folder} cannot be: {' '.join(str(error).split())}") from error


def _llama_config(config: dict[str, Any]) -> LlamaConfig:
    names = [
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "mlp_bias"),
        *("max_position_embeddings", "rope_theta", "rope_scaling", "initializer_range"),
        *("pad_token_id", "bos_token_id", "eos_token_id"),
    ]
    known = {name: config[name] for name in names if config.get(name) is not None}
    for needed in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        known[needed] = int(config[needed])
    return LlamaConfig(**known, tie_word_embeddings=False, use_cache=False)


@dataclass(frozen=True)
class ClipFolder:
    """A CLIP tower on disk."""

    folder: Path
    config: CLIPVisionConfig
    preprocessing: ClipPreprocessing


def read_clip(folder: Path) -> ClipFolder:
    """Read a CLIP folder's configuration: a vision model alone, or the vision half of a whole CLIP."""
    config = _read_json(folder, "config.json")
    config = config.get("vision_config", config)
    try:
        clip = CLIPVisionConfig(**{k: v for k, v in config.items() if k not in ("model_type", "transformers_version")})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json in {folder} is not a CLIP vision tower's: {error}") from error
    how: dict[str, Any] = {"size": clip.image_size, "crop": clip.image_size}
    if (folder / "preprocessor_config.json").is_file():
        told = _read_json(folder, "preprocessor_config.json")
        size, crop = told.get("size", clip.image_size), told.get("crop_size", clip.image_size)
        how["size"] = size.get("shortest_edge", clip.image_size) if isinstance(size, dict) else size
        how["crop"] = crop.get("height", clip.image_size) if isinstance(crop, dict) else crop
        how["mean"] = tuple(told.get("image_mean", ClipPreprocessing.mean))
        how["std"] = tuple(told.get("image_std", ClipPreprocessing.std))
    if how["crop"] != clip.image_size:
        raise CheckpointError(f"{folder}: crop_size {how['crop']} is not the tower's image_size {clip.image_size}")
    return ClipFolder(folder, clip, ClipPreprocessing(**how))


def resolve_tower(tower: str | Path | None, spec: Spec, checkpoint: Path) -> Path | None:
    """The folder of the CLIP tower; None where the checkpoint shares its image encoder and needs none.

    What the caller names is a path first; what config.json names is looked for inside the checkpoint and beside it
    first, so that the working directory does not matter. Then the local hub cache. Never downloads. Raises
    CheckpointError saying where it looked, ConfigError for a tower that would not be used.
    """
    if spec.shared_tower is not None:
        if tower:
            raise ConfigError(f"{checkpoint} has an encoder of its own and takes no vision tower; leave '{tower}' out")
        return None
    wanted = str(tower or spec.tower or "openai/clip-vit-large-patch14")
    short = wanted.rstrip("/").rsplit("/", 1)[-1]
    near = [checkpoint / wanted, checkpoint / short, checkpoint.parent / short]
    places = [Path(wanted).expanduser(), *near] if tower else [*near, Path(wanted).expanduser()]
    for place in places:
        if (place / "config.json").is_file():
            return place
    cached = try_to_load_from_cache(wanted, "config.json") if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", wanted) else None
    if isinstance(cached, str):  # a marker object stands for "known to be absent"
        return Path(cached).parent
    raise CheckpointError(
        f"the CLIP tower '{wanted}' is not on this machine; looked in {', '.join(map(str, places))} and the hub cache. "
        f"Get it once with 'lisa fetch {wanted}', or pass vision_tower=FOLDER"
    )


def build_lisa(spec: Spec, shapes: Mapping[str, Shape], clip: ClipFolder | None = None) -> Lisa:
    """LISA of the sizes that ``spec``, the tensors' ``shapes`` (reference names) and ``clip`` give, weights unset.

    Raises CheckpointError, and what a torch module raises for sizes that fit no model.
    """
    _check_sizes(spec, clip)
    llama = LlamaModel(spec.llama)
    sam = _build_sam(spec, shapes)
    if spec.shared_tower is not None:
        grid = sam.config.prompt_encoder_config.image_embedding_size
        channels = sam.config.prompt_encoder_config.hidden_size
        tower: ClipTower | SharedTower = SharedTower(
            channels,
            int(spec.shared_tower["grid"]),
            grid,
            spec.mm_hidden_size,
            int(spec.shared_tower.get("classes", 0)),
            int(spec.shared_tower.get("colours", 0)),
            bool(spec.shared_tower.get("things", False)),
        )
    elif clip is not None:
        if clip.config.hidden_size != spec.mm_hidden_size:
            raise CheckpointError(
                f"the CLIP tower in {clip.folder} is {clip.config.hidden_size} wide, the checkpoint was trained with "
                f"one of {spec.mm_hidden_size}; pass another with vision_tower=FOLDER"
            )
        tower = ClipTower(clip.config, spec.select_layer)
    else:
        raise ConfigError("a LISA without a shared encoder needs a CLIP tower; pass vision_tower=FOLDER")
    hidden = spec.llama.hidden_size
    return Lisa(
        vision_tower=tower,
        image_projector=nn.Linear(spec.mm_hidden_size, hidden),
        llama=llama,
        lm_head=nn.Linear(hidden, spec.llama.vocab_size, bias=False),
        seg_projector=nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, spec.out_dim)),
        sam=sam,
        presence=Presence(hidden, spec.llama.vocab_size) if spec.presence else None,
    )


def _check_sizes(spec: Spec, clip: ClipFolder | None) -> None:
    """Raise CheckpointError for layers and pixels that no file could fill but a machine would drown in.

    Wide tensors need no check: nothing has memory before it was compared with the file's shapes.
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
            raise CheckpointError(f"config.json of {spec.name}: {what} is {value}; at most {most} is believed")


def _build_sam(spec: Spec, shapes: Mapping[str, Shape]) -> SamModel:
    sam_shapes = {k.removeprefix(_SAM_PREFIX): v for k, v in shapes.items() if k.startswith(_SAM_PREFIX)}
    if spec.image_encoder is None:
        sam = new_sam(infer_sam_config(sam_shapes))
    else:
        options = {name: value for name, value in spec.image_encoder.items() if name != "kind"}
        encoder = ConvImageEncoder(**options)
        sam = sam_without_encoder(sam_shapes, spec.image_size or 256, encoder.stride)
        sam.vision_encoder = encoder
    # One matrix serves the grid and the points; transformers keeps it twice.
    sam.prompt_encoder.shared_embedding = sam.shared_image_embedding
    return sam


def load_lisa(
    folder: Path,
    clip: ClipFolder | None,
    precision: Precision,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
) -> tuple[Lisa, Spec]:
    """Build LISA and fill it, one tensor at a time, each going straight to its device and precision.

    Peak memory is what ends up loaded plus one tensor. Raises CheckpointError naming missing, extra or misshapen keys.
    """
    spec = read_spec(folder)
    files = find_files(folder)
    shapes = {name.removeprefix(PEFT_PREFIX): shape for name, shape in read_shapes(files).items()}
    if "model.embed_tokens.weight" in shapes:
        spec.llama.vocab_size = shapes["model.embed_tokens.weight"][0]
    try:
        with torch.device("meta"):
            lisa = build_lisa(spec, shapes, clip)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder}: config.json and the tensors' shapes make no LISA: {error}") from error
    sources: list[tuple[list[Path], Callable[[str], str | None]]] = [(files, partial(our_name, lisa))]
    if clip is not None and not any(name.startswith("model.vision_tower.") for name in shapes):
        sources.append((find_files(clip.folder), partial(_clip_name, lisa)))
    found = {ours: shape for names, rename in sources for k, shape in read_shapes(names).items() if (ours := rename(k))}
    _compare(found, shapes_of(lisa), partial(reference_name, lisa), folder)
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


def load_sam(file: Path) -> SamModel:
    """SAM from its official ``.pth`` file (ViT-B, L or H), through the same table as LISA's. fp32, CPU."""
    shapes = read_shapes([file])
    with torch.device("meta"):
        sam = new_sam(infer_sam_config(shapes))
        sam.prompt_encoder.shared_embedding = sam.shared_image_embedding
    _compare({SAM_NAMES.ours(name): shape for name, shape in shapes.items()}, shapes_of(sam), SAM_NAMES.theirs, file)
    for name, tensor in iterate_tensors([file]):
        set_tensor(sam, SAM_NAMES.ours(name), tensor.float().clone())
    return sam.eval()


def save_checkpoint(lisa: Lisa, config: dict[str, Any], folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors`` with the reference's names; load_lisa reads them back.

    config: the whole content of config.json. dtype: cast floating-point tensors on the way out. A CLIP tower is left
    out, as in the released checkpoints; a shared tower is part of the model and is written.
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


def _compare(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], theirs: Callable[[str], str], where: Path
) -> None:
    """Raise CheckpointError listing, by the names in the file, what is missing, extra or of another shape."""
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
        problems.append("LoRA weights are not merged yet; fold them in first with 'lisa merge'")
    if problems:
        raise CheckpointError(f"{where} does not fit LISA: {'; '.join(problems)}")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; a checkpoint is a folder with config.json and weights")
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} has no {name}; it is not a model folder")
    return read_json_object(folder / name, CheckpointError)
