"""What LISA trains and what it leaves alone: LoRA in the language model, and a few parts whole.

Trained: LoRA on the attention's q and v of the language model only, all of the embeddings and of the head (a new
token lives in both), the mask decoder, and the projector of ``[SEG]``. Frozen: the rest of the language model, CLIP,
the image projector, SAM's image and prompt encoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import LlamaModel

from lisa_ros.errors import ConfigError
from lisa_ros.lisa.model.lisa import Lisa

_ADAPTER = "default"


@dataclass(frozen=True)
class LoraOptions:
    """LoRA's settings.

    Args:
        rank: 0 for no LoRA.
        alpha: The scale is ``alpha / rank``.
        dropout: Share of inputs that are dropped, in training.
        targets: Names of the language model's linear layers.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        if self.rank and not self.targets:
            raise ConfigError("targets is empty; name layers such as q_proj, or set rank to 0 to go without LoRA")

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank if self.rank else 0.0


def prepare_training(
    lisa: Lisa, options: LoraOptions, *, quantised: bool, checkpointing: bool, mask_embed: bool = False
) -> dict[str, nn.Parameter]:
    """Put LoRA into ``lisa`` and choose what is trained.

    Args:
        lisa: The model; changed in place.
        options: LoRA's.
        quantised: Whether the language model is in four or eight bits.
        checkpointing: Recompute activations of the language model in the backward pass, for memory.
        mask_embed: Train what makes a dense prompt of a coarse mask, too; in SAM it is trained already.

    Returns:
        Name -> parameter that is trained, float32.

    Raises:
        ConfigError: peft is not installed, or a target is no layer.
    """
    lisa.requires_grad_(False)
    lisa.eval()
    if options.rank:
        add_lora(lisa.llama, options, quantised)
    for part in (lisa.llama.embed_tokens, lisa.lm_head, lisa.seg_projector, lisa.sam.mask_decoder):
        part.requires_grad_(True)
    if mask_embed:
        lisa.sam.prompt_encoder.mask_embed.requires_grad_(True)
    trained = {name: parameter for name, parameter in lisa.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        # In half precision, a step of Adam on a weight of size one is smaller than the weight's last bit.
        parameter.data = parameter.data.float()
    if checkpointing:
        _checkpoint(lisa.llama)
    return trained


def training_mode(lisa: Lisa, on: bool) -> None:
    """Dropout and checkpointing in the language model, where LoRA is; everything else is never in training mode."""
    lisa.eval()
    lisa.llama.train(on)


def _checkpoint(llama: nn.Module) -> None:
    # Renamed in transformers 5; the old name is the only one of release 4.
    new = getattr(llama, "activation_checkpointing_enable", None)
    if new is not None:
        new(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        cast(LlamaModel, llama).gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def add_lora(llama: nn.Module, options: LoraOptions, quantised: bool) -> None:
    """Put LoRA into a language model, in place. Raises ConfigError where peft is missing or a target is no layer."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("LoRA needs peft; install it with \"pip install 'lisa_ros[train]'\"") from error
    linear = {name.rpartition(".")[2] for name, layer in llama.named_modules() if hasattr(layer, "in_features")}
    if unknown := set(options.targets) - linear:
        raise ConfigError(
            f"lora.targets: no layer '{min(unknown)}'; the language model has {', '.join(sorted(linear))}"
        )
    if quantised:
        # What peft asks a model before it looks at the layers themselves.
        layer = next(layer for layer in llama.modules() if type(layer).__module__.startswith("bitsandbytes"))
        model: Any = llama
        model.is_loaded_in_4bit = type(layer).__name__ == "Linear4bit"
        model.is_loaded_in_8bit = type(layer).__name__ == "Linear8bitLt"
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,  # type: ignore[arg-type]  # peft divides it by the rank: a fraction will do
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
        bias="none",
    )
    inject_adapter_in_model(config, llama, adapter_name=_ADAPTER)
