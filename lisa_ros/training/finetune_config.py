"""The configuration of ``recipe: lisa``; its defaults are the reference's."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lisa_ros.errors import ConfigError
from lisa_ros.model.precision import PRECISIONS
from lisa_ros.training.lora import LoraOptions
from lisa_ros.training.objective import LossWeights


@dataclass(frozen=True)
class Validation:
    """data: folder in ReasonSeg's format or of ``lisa scenes``. every: steps. limit: only the first pictures."""

    data: str
    every: int = 500
    limit: int | None = None


@dataclass(frozen=True)
class LlavaAndSam:
    """Where LISA itself began. llava: folder of a LLaVA checkpoint. sam: SAM's official .pth file."""

    llava: str
    sam: str


@dataclass(frozen=True)
class FinetuneConfig:
    """``run``: folder of snapshots, logs and the best weights. ``start``: a LISA checkpoint, or LLaVA and SAM.

    ``data``: see :func:`lisa_ros.training.datasets.mixture.open_mixture`. ``batch_size``: pictures a device and pass;
    ``accumulation``: passes a step. ``max_length``: tokens of a conversation, those of the image included.
    ``precision``: auto (bf16 where the GPU has it, else fp32), bf16, fp16, fp32, int8, or nf4 for QLoRA.
    """

    run: str
    start: str | LlavaAndSam
    data: list[dict[str, Any]]
    vision_tower: str | None = None
    conversation: str | None = None
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
        positive = ("steps", "batch_size", "accumulation", "learning_rate", "clip_norm", "max_length", "save_every")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision '{self.precision}' is not known; choose one of {', '.join(PRECISIONS)}")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f"device '{self.device}': use auto or cpu; accelerate gives each process its device")

    @property
    def folder(self) -> Path:
        return Path(self.run).expanduser()

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then linear decay to nothing. step: from 0."""
        up = (step + 1) / max(self.warmup, 1)
        down = (self.steps - step) / max(self.steps - self.warmup, 1)
        return self.learning_rate * max(min(up, down, 1.0), 0.0)

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
        return _build(cls, {name: value for name, value in content.items() if name != "recipe"}, "")


def _build(kind: type, content: Any, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where or 'the configuration'} is {content!r}; it needs settings, each with a name")
    types = typing.get_type_hints(kind)
    fields = {one.name: one for one in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    if unknown := set(content) - set(fields):
        raise ConfigError(f"'{prefix}{min(unknown, key=str)}' is not a setting; there are {', '.join(fields)}")
    required = [
        name
        for name, one in fields.items()
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in content]:
        raise ConfigError(f"the setting '{prefix}{missing[0]}' is missing")
    return kind(**{name: _value(types[name], value, prefix + name) for name, value in content.items()})


def _value(kind: Any, value: Any, name: str) -> Any:
    """``value`` as a ``kind``: YAML reads 3e-4 as text, and gives lists where tuples are meant."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is not tuple else ()
    if value is None and type(None) in choices:
        return None
    for choice in choices or (kind,):
        if dataclasses.is_dataclass(choice) and (isinstance(value, Mapping) or len(choices) < 2):
            return _build(typing.cast(type, choice), value, name)
    if kind in (int, float) or int in choices:
        number = int if kind is int or int in choices else float
        try:
            if isinstance(value, bool) or (number is int and float(value) != int(value)):
                raise ValueError
            return number(value)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{name} is {value!r}; it must be {'a whole ' if number is int else 'a '}number"
            ) from error
    if kind is bool and not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be true or false")
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not value:
            raise ConfigError(f"{name} is {value!r}; it must be a list")
        return tuple(str(one) for one in value)
    if typing.get_origin(kind) is list:
        if not isinstance(value, list):
            raise ConfigError(f"{name} is {value!r}; it must be a list")
        return value
    if (kind is str or str in choices) and not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}; it must be text")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
