"""What a model folder says about itself: LISA's config.json, and the CLIP folder that it names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig

from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.preprocess import ClipPreprocessing
from lisa_ros.lisa.prompt import QuestionForms
from lisa_ros.lisa.weights.substitute import check_link, missing_folder, substitute


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
    config = read_json(folder, "config.json")
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
    config = read_json(folder, "config.json")
    config = config.get("vision_config", config)
    try:
        clip = CLIPVisionConfig(**{k: v for k, v in config.items() if k not in ("model_type", "transformers_version")})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"config.json in {folder} is not a CLIP vision tower's: {error}") from error
    check_link(folder / "preprocessor_config.json")
    settings: dict[str, Any] = {"size": clip.image_size, "crop": clip.image_size}
    if (folder / "preprocessor_config.json").is_file():
        processor = read_json(folder, "preprocessor_config.json")
        size, crop = processor.get("size", clip.image_size), processor.get("crop_size", clip.image_size)
        settings["size"] = size.get("shortest_edge", clip.image_size) if isinstance(size, dict) else size
        settings["crop"] = crop.get("height", clip.image_size) if isinstance(crop, dict) else crop
        settings["mean"] = tuple(processor.get("image_mean", ClipPreprocessing.mean))
        settings["std"] = tuple(processor.get("image_std", ClipPreprocessing.std))
    if settings["crop"] != clip.image_size:
        raise CheckpointError(f"{folder}: crop_size {settings['crop']} is not the tower's image_size {clip.image_size}")
    return ClipFolder(folder, clip, ClipPreprocessing(**settings))


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


def read_json(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise CheckpointError(missing_folder(folder))
    check_link(folder / name)
    if not (folder / name).is_file():
        raise CheckpointError(f"{folder} has no {name}; it is not a model folder")
    try:
        return read_json_object(folder / name, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(substitute(folder / name) or str(error)) from error
