"""The configuration of ``recipe: lisa``; its defaults are the reference's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lisa_ros.engine.options import PRECISIONS
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.family import family_named
from lisa_ros.training.lora import LoraOptions
from lisa_ros.training.objective import LossWeights
from lisa_ros.training.settings import build, check_positive


@dataclass(frozen=True)
class Validation:
    """Scores during training.

    Args:
        data: Folder in ReasonSeg's format or of ``lisa scenes``.
        every: Steps between validations.
        limit: Only so many pictures, the first; None: all.
    """

    data: str
    every: int = 500
    limit: int | None = None


@dataclass(frozen=True)
class LlavaAndSam:
    """What LISA itself began with.

    Args:
        llava: Folder of a LLaVA checkpoint.
        sam: SAM's official .pth file.
    """

    llava: str
    sam: str


@dataclass(frozen=True)
class FinetuneConfig:
    """The settings of a run.

    Args:
        run: Folder of snapshots, logs and the best weights.
        start: A LISA checkpoint, or LLaVA and SAM.
        data: See :func:`lisa_ros.training.datasets.mixture.open_mixture`.
        vision_tower: Folder of CLIP; None: where the checkpoint says.
        conversation: Name of the template; None: the checkpoint's.
        family: Of the model that is trained; its tokens are added to those of the start. None: the start's.
        mask_embed: Train what makes a dense prompt of a coarse mask, from an untrained one. For a start without a
            pretrained SAM.
        device: auto, or cpu.
        precision: auto (bf16 if the GPU has it, else fp32), bf16, fp16, fp32, int8, or nf4 for QLoRA.
        gradient_checkpointing: Recompute activations of the language model, for memory.
        lora: What LoRA is added to.
        loss: Weights of the losses.
        steps: Of the optimizer.
        batch_size: Pictures of a device and pass.
        accumulation: Passes of a step.
        learning_rate: After the warm-up; from there it falls to 0.
        warmup: Steps in which the learning rate rises from 0.
        weight_decay: AdamW's.
        clip_norm: Largest norm of the gradient.
        max_length: Tokens of a conversation, those of the image included.
        seed: Of everything random.
        workers: Processes that read pictures.
        save_every: Steps between snapshots.
        validation: None: without.
    """

    run: str
    start: str | LlavaAndSam
    data: list[dict[str, Any]]
    vision_tower: str | None = None
    conversation: str | None = None
    family: str | None = None
    mask_embed: bool = False
    device: str = "auto"
    precision: str = "auto"
    gradient_checkpointing: bool = True
    lora: LoraOptions = field(default_factory=LoraOptions)
    loss: LossWeights = field(default_factory=LossWeights)
    steps: int = 5000
    batch_size: int = 2
    accumulation: int = 10
    learning_rate: float = 3e-4
    warmup: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    max_length: int = 512
    seed: int = 0
    workers: int = 2
    save_every: int = 100
    validation: Validation | None = None

    def __post_init__(self) -> None:
        check_positive(
            self, "steps", "batch_size", "accumulation", "learning_rate", "clip_norm", "max_length", "save_every"
        )
        if self.family is not None:
            family_named(self.family)
        if self.warmup < 0:
            raise ConfigError(f"warmup is {self.warmup}; it is 0 or more steps")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision '{self.precision}' is not known; choose one of {', '.join(PRECISIONS)}")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f"device '{self.device}': use auto or cpu; accelerate gives each process its device")

    @property
    def folder(self) -> Path:
        return Path(self.run).expanduser()

    def differs(self, other: Mapping[str, Any]) -> list[str]:
        """Names of settings by which the weights would come out otherwise than with ``other`` (of :meth:`as_dict`)."""
        without_effect = {"run", "workers", "save_every", "gradient_checkpointing", "device"}
        own = self.as_dict()
        return sorted(name for name in own if name not in without_effect and own[name] != other.get(name))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in the file."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> FinetuneConfig:
        """Raises ConfigError naming the setting that is unknown, missing or of another type."""
        return build(cls, {name: value for name, value in content.items() if name != "recipe"})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
