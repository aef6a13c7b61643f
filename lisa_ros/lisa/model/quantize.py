"""Number format and device of the weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn

from lisa_ros.engine.options import PRECISIONS
from lisa_ros.errors import ConfigError, DeviceError
from lisa_ros.lisa.model.clip import ClipTower
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.weights.tensors import give_back_freed

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The mask decoder is always in fp32. It has only 4 million weights, and rounding in it moves the edges of masks.
WHOLE = ("sam.shared_image_embedding.", "sam.prompt_encoder.", "sam.mask_decoder.")
# bitsandbytes repacks nf4 for a CPU with AVX512-BF16 in tiles of this size, and fails on a matrix they do not fill;
# such a matrix (none in a released LISA) keeps the general layout.
_NF4_COLUMNS, _NF4_ROWS = 64, 32


def pick_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device '{name}' is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device '{name}' does not exist; torch sees {torch.cuda.device_count()} CUDA devices here")
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    return device


@dataclass(frozen=True)
class Precision:
    """A number format.

    Args:
        name: fp32, bf16, fp16, int8 or nf4.
        dtype: Of everything that is not quantized, except the mask decoder (fp32).
    """

    name: str
    dtype: torch.dtype

    @classmethod
    def pick(cls, name: str, device: torch.device) -> Precision:
        """The number format of a name; ``auto`` is bf16 on a GPU, fp16 if the GPU has no bf16, and fp32 on a CPU.

        Raises:
            ConfigError: The name is unknown, or bitsandbytes is missing for int8 or nf4.
        """
        if name not in PRECISIONS:
            raise ConfigError(f"precision '{name}' is not known; choose one of {', '.join(PRECISIONS)}")
        half = "fp32"
        if device.type == "cuda":
            half = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        if name in ("int8", "nf4"):
            _bitsandbytes(name)
        return cls(half if name == "auto" else name, _DTYPES[name if name in _DTYPES else half])

    @property
    def quantised(self) -> bool:
        return self.name in ("int8", "nf4")

    def prepare(self, llama: nn.Module) -> None:
        """Replace the linear layers of the language model's decoder layers by quantised ones.

        lm_head, both projectors and SAM are not quantised: when the reference quantises them, masks are empty.
        """
        if not self.quantised:
            return
        for layer in cast(nn.ModuleList, llama.layers):
            for name, linear in list(layer.named_modules()):
                if isinstance(linear, nn.Linear):
                    parent = layer.get_submodule(name.rpartition(".")[0])
                    setattr(parent, name.rpartition(".")[2], self._quantised_linear(linear))

    def assign(self, lisa: nn.Module, name: str, tensor: Tensor, device: torch.device) -> None:
        """Give ``lisa`` its tensor ``name``: copied, cast or quantised, and moved."""
        owner = lisa.get_submodule(name.rpartition(".")[0])
        if self.quantised and name.endswith(".weight") and _is_quantised(owner):
            owner.weight = self._quantised_weight(tensor, device)
            if device.type == "cpu":
                # bitsandbytes lays nf4 out anew in the first pass, with eight times the matrix as scratch: now, while
                # most of the model is still on disk, and not when all of it is in memory.
                owner.eval()(torch.zeros(1, int(cast(nn.Linear, owner).in_features), dtype=self.dtype))
                give_back_freed()
            return
        dtype = torch.float32 if name.startswith(WHOLE) else self.dtype
        set_tensor(lisa, name, tensor.to(device=device, dtype=dtype, copy=True))

    def _quantised_linear(self, linear: nn.Linear) -> nn.Module:
        bnb = _bitsandbytes(self.name)
        with torch.device("meta"):
            if self.name == "nf4":
                quantised = bnb.nn.Linear4bit(
                    linear.in_features,
                    linear.out_features,
                    bias=linear.bias is not None,
                    compute_dtype=self.dtype,
                    compress_statistics=True,
                    quant_type="nf4",
                )
                if linear.in_features % _NF4_COLUMNS or linear.out_features % _NF4_ROWS:
                    quantised.support_avx512bf16_for_cpu = False
                return quantised
            return bnb.nn.Linear8bitLt(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                has_fp16_weights=False,
                threshold=6.0,
            )

    def _quantised_weight(self, tensor: Tensor, device: torch.device) -> nn.Parameter:
        bnb = _bitsandbytes(self.name)
        if self.name == "nf4":
            weight = tensor.to(self.dtype, copy=True)
            return bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True).to(device)
        weight = tensor.to(torch.float16, copy=True)
        return bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(device)


def _is_quantised(module: nn.Module) -> bool:
    return type(module).__module__.startswith("bitsandbytes")


def _bitsandbytes(precision: str) -> ModuleType:
    # It warns at every layer of every pass that int8 multiplies in fp16, which is what was asked for.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(
            f"precision '{precision}' needs bitsandbytes; install it with \"pip install 'lisa_ros[quant]'\", "
            "or choose bf16, fp16 or fp32"
        ) from error
    return bitsandbytes


def set_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put ``tensor`` in place of the parameter or buffer ``name`` (a load into a model built on the meta device)."""
    owner_name, _, attribute = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if attribute in owner._parameters:
        owner._parameters[attribute] = nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[attribute] = tensor


def restore_constants(lisa: Lisa, device: torch.device) -> None:
    """Compute what no checkpoint stores: rotary frequencies (in fp32) and CLIP's position ids."""
    rotary = type(lisa.llama.rotary_emb)(config=lisa.llama.config)
    lisa.llama.rotary_emb = rotary.to(device)
    if isinstance(lisa.vision_tower, ClipTower):
        embeddings = lisa.vision_tower.clip.embeddings
        positions = torch.arange(embeddings.position_embedding.num_embeddings, device=device)
        embeddings.register_buffer("position_ids", positions[None], persistent=False)
    left = [name for name, tensor in _all_tensors(lisa) if tensor.is_meta]
    if left:
        raise RuntimeError(f"constants without a value: {', '.join(left)}")


def _all_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
