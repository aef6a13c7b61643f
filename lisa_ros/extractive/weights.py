"""An ELISA folder on disk to a filled model.

The folder has ``llava/`` (a LLaVA in transformers' format, with its tokenizer) and ``models/`` (``NAME.pth``,
``NAME.json`` and ``train_embs_mean.pt``), as the reference writes them. ``NAME.pth`` has the adapter, LoRA, and weights
of the LLaVA; one that it stores in four bits is read from ``llava/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig

from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.extractive.model.adapter import AttentionBody, Body, MlpBody, SegAdapter
from lisa_ros.extractive.model.llava import Elisa
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.model.quantize import Precision, set_tensor
from lisa_ros.lisa.weights.load import compare, shapes_of
from lisa_ros.lisa.weights.lora import LORA, fold
from lisa_ros.lisa.weights.spec import read_json
from lisa_ros.lisa.weights.tensors import Shape, find_files, iterate_tensors, read_shapes

LLAVA, MODELS, MEAN = "llava", "models", "train_embs_mean.pt"
END = "<end_of_turn>\n"
LORA_SCALE = 2.0
"""alpha / rank, which the reference fixes."""

ADAPTER_SETTINGS = (
    *("mlp_adapter", "expand_factor", "num_linears", "num_heads", "num_queries", "dropout", "noise_level"),
)
"""Names of the adapter's settings in ``NAME.json``."""

_PREFIX = re.compile(r"llava_model\.llava_model\.(base_model\.model\.)?")
_CONSTANT = re.compile(r".*(rotary_emb\.inv_freq|embeddings\.position_ids|embed_scale)$")
_BLOCK = re.compile(r"(\w+)\.\d+\.query$")
_ENDS = ("input_norm.", "norm.", "mean_emb", "std_emb")


@dataclass(frozen=True)
class ElisaSpec:
    """What an ELISA folder says.

    Args:
        folder: The folder.
        name: Of the model, that of its ``.pth`` file.
        llava: Configuration of the LLaVA.
        adapter: Arguments of the adapter that no tensor shows.
        end: Text that ends an answer.
        base: Folder of the LLaVA.
    """

    folder: Path
    name: str
    llava: LlavaConfig
    adapter: dict[str, Any]
    end: str
    base: Path

    @property
    def weights(self) -> Path:
        return self.folder / MODELS / f"{self.name}.pth"


def read_spec(folder: Path, name: str | None = None) -> ElisaSpec:
    """Read the configuration of an ELISA folder.

    Args:
        folder: With ``llava/`` and ``models/``.
        name: Of the ``.pth`` file; None if there is only one.

    Raises:
        CheckpointError: A file is missing or damaged.
        ConfigError: There is no weight file ``name``, or several and no name.
    """
    found = sorted(file.stem for file in (folder / MODELS).glob("*.pth"))
    if not found:
        raise CheckpointError(f"{folder / MODELS} has no .pth file; it is not the folder of an ELISA")
    if name is None and len(found) > 1:
        raise ConfigError(f"{folder / MODELS} has several models; set option weights to one of {', '.join(found)}")
    if name is not None and name not in found:
        raise ConfigError(f"option weights is '{name}'; {folder / MODELS} has {', '.join(found)}")
    name = name or found[0]
    settings_file = folder / MODELS / f"{name}.json"
    settings = read_json_object(settings_file, CheckpointError) if settings_file.is_file() else {}
    end = settings.get("end_turn_token", END)
    if not isinstance(end, str) or not end:
        raise CheckpointError(f"{settings_file}: end_turn_token is {end!r}; it must be text")
    return ElisaSpec(folder, name, _llava_config(folder / LLAVA), settings, end, folder / LLAVA)


def read_llava(folder: Path) -> ElisaSpec:
    """The configuration of a LLaVA that is to become an ELISA.

    Args:
        folder: In transformers' format.

    Raises:
        CheckpointError: It is missing, damaged or of another kind.
    """
    return ElisaSpec(folder, folder.resolve().name, _llava_config(folder), {}, END, base=folder)


def _llava_config(folder: Path) -> LlavaConfig:
    content = read_json(folder, "config.json")
    if content.get("model_type") != "llava":
        raise CheckpointError(f"{folder} is {content.get('model_type')!r}, not a LLaVA in transformers' format")
    try:
        config = LlavaConfig.from_dict(content)
        text: Any = config.text_config
        if text.model_type not in ("gemma", "llama"):
            raise CheckpointError(f"{folder}: the language model is '{text.model_type}'; supported: gemma, llama")
        if text.model_type == "gemma":
            # Released Gemma configurations name the exact GELU, which no release of transformers used.
            text.hidden_act = content["text_config"].get("hidden_activation") or "gelu_pytorch_tanh"
        return config
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"config.json in {folder} has a missing or invalid value: {error}") from error


def load_elisa(
    spec: ElisaSpec,
    first: int,
    precision: Precision,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
    adapter: SegAdapter | None = None,
) -> Elisa:
    """Build ELISA and load its weights, one tensor at a time, with LoRA merged.

    Args:
        spec: Of the folder.
        first: Id of the first proposal.
        precision: Number format of the LLaVA; the adapter is always in float32.
        device: Where the model goes.
        progress: Called with the loaded share, in [0, 1].
        adapter: A new one, for a LLaVA that is not an ELISA yet; None: that of the folder.

    Raises:
        CheckpointError: A file is damaged, or tensors are missing, unexpected or of another shape.
    """
    files, trained = find_files(spec.base), [spec.weights] if adapter is None else []
    shapes = {name: shape for name, shape in _shapes(files).items() if name is not None}
    own = _shapes(trained)
    try:
        with torch.device("meta"):
            model = Elisa(spec.llava, adapter or build_adapter(_adapter_shapes(own), spec.adapter), first)
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"{spec.folder}: its configuration and tensors do not describe an ELISA: {error}"
        ) from error
    missing = {name: shape for name, shape in shapes_of(model).items() if adapter is None or "adapter." not in name}
    targets = {_canonical(name): name for name in missing}
    expected = {_canonical(name): shape for name, shape in missing.items()}
    pairs = _lora(trained)
    tied = {"lm_head.weight"} if model.lm_head is None else set()
    newer = {name for name, shape in own.items() if expected.get(name) == shape}
    found = {name: shape for name, shape in (shapes | {n: own[n] for n in newer}).items() if name not in tied}
    compare(found, expected, lambda name: name, spec.folder)
    if unknown := {f"{layer}.weight" for layer in pairs} - set(expected):
        raise CheckpointError(f"{spec.weights} has LoRA for {min(unknown)}, which the LLaVA lacks")
    precision.prepare(model.language_model)
    total = sum(file.stat().st_size for file in [*files, *trained])
    done = 0
    for source, tensors in ((files, set(shapes) - newer), (trained, newer)):
        for name, tensor in _tensors(source):
            if name in tensors and name in expected:
                _assign(model, targets[name], _merged(name, tensor, pairs), precision, device)
            done += tensor.nbytes
            if progress is not None:
                progress(min(done / total, 1.0))
    if adapter is None:
        model.adapter.mean = _mean(spec.folder / MODELS / MEAN, len(model.adapter.input_norm.weight)).to(device)
    model.adapter.to(device)
    _restore_constants(model, device)
    return model.eval().requires_grad_(False)


def build_adapter(shapes: Mapping[str, Shape], settings: Mapping[str, Any]) -> SegAdapter:
    """An adapter without weights.

    Args:
        shapes: Shape by name in the adapter.
        settings: ``num_heads`` for the variant with attention; ``dropout`` and ``noise_level`` for training.

    Raises:
        KeyError: A tensor is missing.
        ValueError: The settings do not fit the tensors.
    """
    (embedding_size,), (hidden_size,) = shapes["input_norm.weight"], shapes["norm.weight"]
    dropout = float(settings.get("dropout", 0.0))
    body: Body
    if "body.mlp.0.weight" in shapes:
        body = MlpBody(embedding_size, hidden_size, shapes["body.mlp.0.weight"][0], dropout)
    else:
        blocks = sum(bool(re.fullmatch(r"body\.blocks\.\d+\.query", name)) for name in shapes)
        heads = settings.get("num_heads", [1])
        heads = list(heads) if isinstance(heads, (list, tuple)) else [int(heads)] * blocks
        if len(heads) != blocks:
            raise ValueError(f"num_heads is {heads} for {blocks} blocks of attention; give one number for each")
        body = AttentionBody(
            embedding_size,
            hidden_size,
            sum(bool(re.fullmatch(r"body\.linears\.\d+\.weight", name)) for name in shapes),
            heads,
            [shapes[f"body.blocks.{block}.query"][1] for block in range(blocks)],
            shapes["body.blocks.0.ffn.0.weight"][0] if blocks else hidden_size,
            dropout,
        )
    return SegAdapter(embedding_size, hidden_size, body, float(settings.get("noise_level", 1e-4)))


def our_name(theirs: str) -> str | None:
    """Our name of a tensor of a LLaVA or of the reference; None for constants and scales of four-bit weights."""
    name = _PREFIX.sub("", theirs, count=1).replace(".base_layer.", ".")
    if _CONSTANT.fullmatch(name) or re.search(r"\.(absmax|quant_map|quant_state|nested_\w+)", name):
        return None
    if name.startswith("adapter."):
        return "adapter." + _our_adapter_name(name.removeprefix("adapter."))
    name = name.removeprefix("model.")
    name = re.sub(r"^language_model\.lm_head\.", "lm_head.", name)
    return re.sub(r"^language_model\.model\.", "language_model.", name)


def _our_adapter_name(theirs: str) -> str:
    if theirs.startswith(_ENDS):
        return theirs
    if re.match(r"(mlp|linears|skips|final_skip)\b", theirs):
        return f"body.{theirs}"
    return "body.blocks." + theirs.partition(".")[2]


def reference_adapter_name(ours: str) -> str:
    """The reference's name of a tensor of our adapter, where both have one."""
    return ours.removeprefix("body.")


def reference_lora_name(ours: str) -> str:
    """The reference's name of a matrix of LoRA on our language model."""
    name = ours.replace("language_model.", "language_model.model.", 1)
    return f"llava_model.llava_model.base_model.model.{name}"


def _canonical(name: str) -> str:
    """One name for a tensor of CLIP: some releases of transformers keep its network one level down."""
    return name.replace("vision_tower.vision_model.", "vision_tower.", 1)


def _shapes(files: list[Path]) -> dict[str, Shape]:
    renamed = ((our_name(name), shape) for name, shape in read_shapes(files).items())
    return {_canonical(name): shape for name, shape in renamed if name is not None and not LORA.fullmatch(name)}


def _adapter_shapes(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    return {name.removeprefix("adapter."): shape for name, shape in shapes.items() if name.startswith("adapter.")}


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for theirs, tensor in iterate_tensors(files):
        name = our_name(theirs)
        if name is not None:
            yield _canonical(name), tensor


def _lora(files: list[Path]) -> dict[str, dict[str, Tensor]]:
    """Layer -> its matrices A and B."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _tensors(files):
        if match := LORA.fullmatch(name):
            pairs.setdefault(match[1], {})[match[2]] = tensor.clone()
    if broken := [layer for layer, pair in pairs.items() if len(pair) != 2]:
        raise CheckpointError(f"{files[0]}: LoRA of {broken[0]} has only one of its two matrices")
    return pairs


def _merged(name: str, tensor: Tensor, pairs: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    pair = pairs.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
    return fold(tensor, pair["A"], pair["B"], LORA_SCALE) if pair else tensor


def _assign(model: Elisa, name: str, tensor: Tensor, precision: Precision, device: torch.device) -> None:
    if name.startswith("adapter."):
        set_tensor(model, name, tensor.to(device, torch.float32, copy=True))
    else:
        precision.assign(model, name, tensor, device)


def _mean(file: Path, size: int) -> Tensor:
    """Mean of the embeddings (D,) that the adapter was trained with. Raises CheckpointError."""
    if not file.is_file():
        raise CheckpointError(
            f"{file} is missing; the adapter needs the mean of the embeddings that it was trained with"
        )
    try:
        mean = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common type
        raise CheckpointError(f"{file} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(mean, Tensor) or mean.numel() != size:
        what = tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__
        raise CheckpointError(f"{file} is {what}; it must be a tensor of {size} numbers")
    return mean.detach().float().flatten().clone()


def _restore_constants(model: Elisa, device: torch.device) -> None:
    """Compute what no checkpoint stores: rotary frequencies, CLIP's position ids, Gemma's factor of embeddings."""
    rotary = model.language_model.rotary_emb
    model.language_model.rotary_emb = type(rotary)(config=model.text_config).to(device)
    for module in list(model.modules()):
        positions = getattr(module, "position_embedding", None)
        if isinstance(positions, nn.Embedding):
            count = positions.num_embeddings
            module.register_buffer("position_ids", torch.arange(count, device=device)[None], persistent=False)
        if isinstance(getattr(module, "embed_scale", None), Tensor):
            module.embed_scale = torch.tensor(module.scalar_embed_scale, device=device)
    left = [n for n, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise RuntimeError(f"constants without a value: {', '.join(left)}")
