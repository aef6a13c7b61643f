"""The configuration of ``recipe: extract``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lisa_ros.engine.options import PRECISIONS
from lisa_ros.errors import ConfigError
from lisa_ros.training.lora import LoraOptions
from lisa_ros.training.settings import build, check_positive, check_shares


@dataclass(frozen=True)
class AdapterOptions:
    """The new adapter.

    Args:
        attention: Several linear views joined by attention; False: two layers, as in the published experiment.
        expand: Width of inner layers, relative to the language model's.
        num_linears: Views, with attention.
        num_heads: Of each block of attention.
        num_queries: Of each block of attention.
        dropout: Share of inner numbers that is dropped.
        noise: Standard deviation of the noise on embeddings.
    """

    attention: bool = False
    expand: int = 2
    num_linears: int = 25
    num_heads: tuple[int, ...] = (1,)
    num_queries: tuple[int, ...] = (10,)
    dropout: float = 0.2
    noise: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "expand", "num_linears")
        check_shares(self, "dropout", "noise")
        if len(self.num_heads) != len(self.num_queries) or not self.num_heads:
            raise ConfigError(
                f"num_heads is {list(self.num_heads)} and num_queries {list(self.num_queries)}; give one of each for "
                "every block"
            )


@dataclass(frozen=True)
class ExtractConfig:
    """The settings of a run.

    Args:
        run: Folder of snapshots and logs; the model is RUN/model.
        start: Folder of a LLaVA in transformers' format, with Gemma or LLaMA.
        data: See :func:`lisa_ros.training.datasets.mixture.open_mixture`.
        proposals: Folder of further candidates: NAME.npz with ``masks`` (N, H, W) for a picture NAME.jpg; None: the
            true objects of the picture, and nothing else.
        alpha_clip: Folder of AlphaCLIP's visual tower; None: candidates are described by the LLaVA's own tower.
        parity: The reference's texts, order of candidates and loss; else the repaired ones.
        position: With parity, where the masks stand in an answer: before, after or randomized.
        phrases: With parity, whether a phrase introduces the masks.
        unheard: Share of the ids that the model reads, but for ``<image>``, that are made unknown, in [0, 1].
        precision: auto, fp32, bf16 or fp16.
        device: auto, or cpu.
        adapter: The new adapter.
        lora: What LoRA is added to. The scale is 2, as the reference fixes it: alpha is twice the rank.
        steps: Of the optimizer.
        batch_size: Pictures of a step.
        learning_rate: Of the adapter, after the warm-up.
        lora_rate: Learning rate of LoRA, relative to the adapter's.
        warmup: Steps in which the learning rate rises.
        clip_norm: Largest norm of the gradient.
        save_every: Steps between snapshots.
        seed: Of everything random.
    """

    run: str
    start: str
    data: list[dict[str, Any]]
    proposals: str | None = None
    alpha_clip: str | None = None
    parity: bool = False
    position: str = "randomized"
    phrases: bool = True
    unheard: float = 0.2
    precision: str = "auto"
    device: str = "auto"
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    lora: LoraOptions = field(default_factory=lambda: LoraOptions(rank=16, alpha=32.0, dropout=0.0))
    steps: int = 6000
    batch_size: int = 2
    learning_rate: float = 1e-3
    lora_rate: float = 0.1
    warmup: int = 100
    clip_norm: float = 1.0
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch_size", "learning_rate", "lora_rate", "clip_norm", "save_every")
        check_shares(self, "unheard")
        if self.position not in ("before", "after", "randomized"):
            raise ConfigError(f"position is '{self.position}'; choose before, after or randomized")
        if self.precision not in PRECISIONS or self.precision in ("int8", "nf4"):
            raise ConfigError(f"precision '{self.precision}' cannot be used here; choose auto, fp32, bf16 or fp16")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f"device '{self.device}': use auto or cpu; accelerate gives the process its device")
        if self.lora.rank and self.lora.alpha != 2 * self.lora.rank:
            raise ConfigError(f"lora.alpha is {self.lora.alpha:g}; ELISA's file knows only twice the rank")

    @property
    def folder(self) -> Path:
        return Path(self.run).expanduser()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ExtractConfig:
        """Raises ConfigError naming the setting that is unknown, missing or of another type."""
        return build(cls, {name: value for name, value in content.items() if name != "recipe"})
