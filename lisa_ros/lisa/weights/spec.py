"""Configuration of a model folder: LISA's config.json, and the folder of the CLIP tower."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPVisionConfig, LlamaConfig

from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.family import FAMILIES, Family, PointSettings, family_of
from lisa_ros.lisa.preprocess import ClipPreprocessing
from lisa_ros.lisa.prompt import QuestionForms
from lisa_ros.lisa.weights.substitute import check_link, missing_folder, substitute


@dataclass(frozen=True)
class Spec:
    """Content of a checkpoint's config.json, with the reference's defaults for missing values.

    Args:
        name: Of the model.
        llama: Sizes of the language model.
        image_start_end: Whether ``<im_start>`` and ``<im_end>`` enclose the image in a prompt.
        tower: CLIP tower: a folder or hub id; None if none is named.
        select_layer: Layer of CLIP whose features are used, usually -2.
        mm_hidden_size: Width of CLIP's features.
        out_dim: Width of a mask prompt.
        conversation: Name of the conversation template.
        image_size: Side of the image encoder's input in pixels; None: as SAM's tensors say.
        image_encoder: Settings of an image encoder in place of SAM's; None: SAM's.
        shared_tower: Settings of a vision tower that reads the image embedding in place of CLIP; None: CLIP.
        presence: Whether the model has a module for the presence of objects.
        smallest_part: Parts of a mask below this share of the largest part are removed; 0: none.
        questions: Sentences that the model was trained on.
        classes: Names of the classes that the shared tower recognises, in their order; empty: it has no names.
        family: What the checkpoint shares with others of its system.
        projector: Kind of the image projector: ``linear``, ``identity`` or ``mlp{N}x_gelu``.
        strips_blanks: Whether the tokenizer removes white space beside added tokens.
        points: Settings of similarity points; None: none.
        point_prompts: What a command's points and box become (``lisa_ros.lisa.pointing``): ``tokens`` or ``place``.
    """

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
    classes: tuple[str, ...] = ()
    family: Family = FAMILIES["lisa"]
    projector: str = "linear"
    strips_blanks: bool = True
    points: PointSettings | None = None
    point_prompts: str = "tokens"

    @property
    def answers_targets(self) -> bool:
        """Whether one answer is about several targets."""
        return bool(self.questions.several)


def read_spec(folder: Path, family: Family | None = None) -> Spec:
    """Read config.json.

    Args:
        folder: Of the checkpoint.
        family: Overrides the family that config.json names.

    Raises:
        CheckpointError: It is missing, damaged or not LISA's.
    """
    config = read_json(folder, "config.json")
    if not config.get("train_mask_decoder") and "lisa" not in config:
        kind = (config.get("architectures") or [config.get("model_type", "of an unknown kind")])[0]
        raise CheckpointError(f"{folder} is {kind}, not a LISA checkpoint (its config.json has no train_mask_decoder)")
    try:
        own = config.get("lisa") or {}
        if not isinstance(own, dict) or not isinstance(own.get("questions", {}), dict):
            raise ValueError(f"lisa is {own!r}; it and its questions must be mappings")
        family = family or family_of(config)
        width = int(config["hidden_size"])
        return Spec(
            name=str(own.get("name", folder.resolve().name)),
            llama=_llama_config(config),
            image_start_end=bool(config.get("mm_use_im_start_end", True)),
            tower=config.get("mm_vision_tower") or config.get("vision_tower"),
            select_layer=int(config.get("mm_vision_select_layer", -2)),
            mm_hidden_size=int(config["mm_hidden_size"]),
            out_dim=int(config.get("out_dim", 256)),
            conversation=str(own.get("conversation", family.conversation)),
            image_size=own.get("image_size"),
            image_encoder=own.get("image_encoder"),
            shared_tower=own.get("vision_tower"),
            presence=bool(own.get("presence", False)),
            smallest_part=float(own.get("smallest_part", 0.0)),
            classes=_classes(folder),
            questions=replace(family.questions, **own.get("questions", {})),
            family=family,
            projector=_projector(config),
            strips_blanks=_strips_blanks(own, family),
            points=_points(own, family, width),
            point_prompts=_point_prompts(own),
        )
    except ConfigError as error:
        raise CheckpointError(f"config.json in {folder}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json in {folder} has a missing or invalid value: {error}") from error
    except StrictDataclassError as error:  # transformers 5 raises it for sizes that do not fit together
        raise CheckpointError(f"config.json in {folder} is inconsistent: {' '.join(str(error).split())}") from error


def _classes(folder: Path) -> tuple[str, ...]:
    """The names in classes.json; none without such a file. Raises ValueError for a file with anything else."""
    file = folder / "classes.json"
    if not file.is_file():
        return ()
    names = json.loads(file.read_text("utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("classes.json must be a list of names")
    return tuple(names)


def _projector(config: dict[str, Any]) -> str:
    kind = config.get("mm_projector_type") or "linear"
    if not isinstance(kind, str) or not re.fullmatch(r"linear|identity|mlp[1-9]\d?x_gelu", kind):
        raise ValueError(f"mm_projector_type is {kind!r}; linear, identity and mlp2x_gelu (any number) can be read")
    return kind


def with_points(spec: Spec, settings: Mapping[str, Any]) -> Spec:
    """``spec`` with some settings of similarity points.

    Raises:
        ConfigError: A setting is not known or out of its range, or the family's masks are prompted by coarse masks.
    """
    if spec.family.coarse_token:
        raise ConfigError(f"option points: masks of the family '{spec.family.name}' take no points; leave it out")
    try:
        return replace(spec, points=PointSettings.read(settings, spec.points))
    except ValueError as error:
        raise ConfigError(f"option points: {error}") from error


def _points(own: dict[str, Any], family: Family, width: int) -> PointSettings | None:
    known = family.points_for(width)
    return known if own.get("points") is None else PointSettings.read(own["points"], known)


def _point_prompts(own: dict[str, Any]) -> str:
    """A decoder that was trained from scratch has never seen a point token; SAM's has."""
    kind = str(own.get("point_prompts", "place" if own.get("image_encoder") else "tokens"))
    if kind not in ("tokens", "place"):
        raise ValueError(f"lisa.point_prompts is {kind!r}; it must be tokens or place")
    return kind


def _strips_blanks(own: dict[str, Any], family: Family) -> bool:
    rule = own.get("added_tokens")
    if rule not in (None, "strip", "keep"):
        raise ValueError(f"lisa.added_tokens is {rule!r}; it must be strip or keep")
    return family.strips_blanks if rule is None else rule == "strip"


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
    """Read the configuration of a CLIP folder: a vision model alone, or the vision half of a whole CLIP.

    Raises:
        CheckpointError: A file is missing, damaged or not CLIP's, or crop and image size differ.
    """
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
    """Find the CLIP tower on this computer. Never downloads.

    Args:
        tower: Folder or hub id that the caller gives; None takes the one in config.json.
        spec: Content of config.json.
        checkpoint: Folder of the checkpoint.

    Returns:
        The folder of the tower; None if the model has an encoder of its own. A caller's ``tower`` is tried as a path
        first. A tower of config.json is searched in the checkpoint and beside it first, so the working directory does
        not matter. A path of another machine is searched by its last part. The local hub cache is last.

    Raises:
        CheckpointError: The tower is not on this computer. The message lists the places.
        ConfigError: The model has an encoder of its own, but a tower is given.
    """
    if spec.shared_tower is not None:
        if tower:
            raise ConfigError(f"{checkpoint} has an encoder of its own and takes no vision tower; leave '{tower}' out")
        return None
    wanted = str(tower or spec.tower or "openai/clip-vit-large-patch14")
    short = wanted.rstrip("/").rsplit("/", 1)[-1]
    near = [checkpoint / wanted, checkpoint / short, checkpoint.parent / short]
    places = [Path(wanted).expanduser(), *near] if tower else [*near, Path(wanted).expanduser()]
    places = list(dict.fromkeys(places))
    for place in places:
        if (place / "config.json").is_file():
            return place
    # Trainers write a path of their machine; its last part is the name of one of OpenAI's towers.
    names = [name for name in (wanted, f"openai/{short}") if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name)]
    for name in names:
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):  # a marker object stands for "known to be absent"
            return Path(cached).parent
    raise CheckpointError(
        f"the CLIP tower '{wanted}' is not on this machine; looked in {', '.join(map(str, places))} and the hub cache. "
        f"Get it once with 'lisa fetch {names[0] if names else wanted}', or pass vision_tower=FOLDER"
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
