"""Tiny random ELISAs of any kind, as the reference's folders are: LLaVA, adapter, LoRA, mean of the embeddings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from goldens import GOLDEN
from safetensors.torch import save_file
from torch import Tensor

ELISA = GOLDEN / "ELISA"
PREFIX = "llava_model.llava_model.base_model.model."
WORDS, EMBEDDING = 279, 512


def write_elisa(
    folder: Path,
    *,
    text: str = "gemma",
    tied: bool = True,
    attention: bool = True,
    hidden: int = 48,
    rows: int = 300,
    rank: int = 3,
    embedding: int = EMBEDDING,
    newer_names: bool = False,
    seed: int = 0,
) -> Path:
    """Write a random model with the golden's tokenizer.

    Args:
        folder: To write.
        text: gemma or llama.
        tied: Whether the head is the word table.
        attention: Variant of the adapter: five linears and two blocks of attention; else an MLP.
        hidden: Of the language model.
        rows: Of the word table, with padding.
        rank: Of LoRA.
        embedding: Numbers of a proposal's embedding.
        newer_names: Names of tensors as transformers writes them since 4.52.
        seed: Of all weights.
    """
    generator = torch.Generator().manual_seed(seed)
    shutil.copytree(ELISA / "llava", folder / "llava", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    for file in ("llava/processor_config.json", "llava/preprocessor_config.json"):
        (folder / file).chmod(0o644)
    (folder / "llava/processor_config.json").write_text(
        json.dumps({"image_token": "<image>", "patch_size": 14, "vision_feature_select_strategy": "default"})
    )
    (folder / "models").mkdir()
    (folder / "llava/config.json").write_text(json.dumps(_config(text, tied, hidden, rows)))
    base = {name: _random(shape, generator) for name, shape in _llava_shapes(text, tied, hidden, rows).items()}
    written = {
        ("model." + n.replace("language_model.model.", "language_model.") if newer_names else n): t
        for n, t in base.items()
    }
    save_file(
        {("lm_head.weight" if n.endswith("lm_head.weight") and newer_names else n): t for n, t in written.items()},
        folder / "llava/model.safetensors",
    )
    adapter = _adapter_shapes(attention, hidden, embedding)
    trained = {f"adapter.{name}": _random(shape, generator) for name, shape in adapter.items()}
    for name, tensor in base.items():
        if name.endswith(("q_proj.weight", "v_proj.weight")):
            layer = PREFIX + name.removesuffix(".weight")
            trained[f"{layer}.base_layer.weight"] = tensor
            trained[f"{layer}.lora_A.default.weight"] = _random((rank, tensor.shape[1]), generator)
            trained[f"{layer}.lora_B.default.weight"] = _random((tensor.shape[0], rank), generator)
        else:
            trained[PREFIX + name] = tensor
    torch.save(trained, folder / "models/tiny.pth")
    settings: dict[str, Any] = {"mlp_adapter": not attention, "expand_factor": 2, "end_turn_token": "<end_of_turn>\n"}
    if attention:
        settings |= {"num_linears": 5, "num_heads": [2, 4], "num_queries": [4, 3]}
    (folder / "models/tiny.json").write_text(json.dumps(settings))
    torch.save(_random((embedding,), generator), folder / "models/train_embs_mean.pt")
    return folder


def drawn_alpha_clip(facts: dict[str, Any]) -> dict[str, Tensor]:
    """AlphaCLIP's tensors, as the golden's ``alphaclip.json`` says."""
    tensors = {}
    for name, (shape, scale, about_one) in facts["weights"].items():
        numbers = np.random.RandomState(crc32(name.encode())).standard_normal(shape).astype(np.float32)
        tensors[name] = torch.from_numpy(numbers * np.float32(scale) + np.float32(about_one))
    return tensors


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    scale = 0.5 if len(shape) < 2 else (2 / shape[-1]) ** 0.5
    return torch.randn(shape, generator=generator) * scale


def _config(text: str, tied: bool, hidden: int, rows: int) -> dict[str, Any]:
    language = {
        "model_type": text,
        "vocab_size": rows,
        "hidden_size": hidden,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "rms_norm_eps": 1e-6,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    }
    return {
        "model_type": "llava",
        "image_token_index": WORDS,
        "text_config": language,
        "vision_config": vision,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
    }


def _llava_shapes(text: str, tied: bool, hidden: int, rows: int) -> dict[str, tuple[int, ...]]:
    """By the names of transformers 4.46."""
    shapes: dict[str, tuple[int, ...]] = {
        "language_model.model.embed_tokens.weight": (rows, hidden),
        "language_model.model.norm.weight": (hidden,),
        "multi_modal_projector.linear_1.weight": (hidden, 32),
        "multi_modal_projector.linear_1.bias": (hidden,),
        "multi_modal_projector.linear_2.weight": (hidden, hidden),
        "multi_modal_projector.linear_2.bias": (hidden,),
    }
    if not tied:
        shapes["language_model.lm_head.weight"] = (rows, hidden)
    for layer in range(3):
        name = f"language_model.model.layers.{layer}."
        shapes |= {f"{name}input_layernorm.weight": (hidden,), f"{name}post_attention_layernorm.weight": (hidden,)}
        shapes |= {f"{name}mlp.{part}_proj.weight": (80, hidden) for part in ("gate", "up")}
        shapes |= {f"{name}mlp.down_proj.weight": (hidden, 80), f"{name}self_attn.o_proj.weight": (hidden, 64)}
        shapes |= {f"{name}self_attn.q_proj.weight": (64, hidden)}
        shapes |= {f"{name}self_attn.{part}_proj.weight": (32, hidden) for part in "kv"}
    tower = "vision_tower.vision_model."
    shapes |= {
        f"{tower}embeddings.class_embedding": (32,),
        f"{tower}embeddings.patch_embedding.weight": (32, 3, 14, 14),
        f"{tower}embeddings.position_embedding.weight": (17, 32),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{tower}{norm}.weight": (32,), f"{tower}{norm}.bias": (32,)}
    for layer in range(3):
        name = f"{tower}encoder.layers.{layer}."
        for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
            shapes |= {f"{name}{part}.weight": (32, 32), f"{name}{part}.bias": (32,)}
        shapes |= {f"{name}mlp.fc1.weight": (64, 32), f"{name}mlp.fc1.bias": (64,)}
        shapes |= {f"{name}mlp.fc2.weight": (32, 64), f"{name}mlp.fc2.bias": (32,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{name}{norm}.weight": (32,), f"{name}{norm}.bias": (32,)}
    return shapes


def _adapter_shapes(attention: bool, hidden: int, embedding: int) -> dict[str, tuple[int, ...]]:
    """By the reference's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "mean_emb": (hidden,),
        "std_emb": (hidden,),
        "input_norm.weight": (embedding,),
        "input_norm.bias": (embedding,),
        "norm.weight": (hidden,),
        "norm.bias": (hidden,),
    }
    if not attention:
        return shapes | {
            "mlp.0.weight": (2 * hidden, embedding),
            "mlp.0.bias": (2 * hidden,),
            "mlp.3.weight": (hidden, 2 * hidden),
            "mlp.3.bias": (hidden,),
        }
    for linear in range(5):
        shapes |= {f"linears.{linear}.weight": (hidden, embedding), f"linears.{linear}.bias": (hidden,)}
    for block, queries in enumerate((4, 3)):
        name = f"attention_blocks.{block}."
        shapes |= {
            f"{name}query": (1, queries, hidden),
            f"{name}attention.in_proj_weight": (3 * hidden, hidden),
            f"{name}attention.in_proj_bias": (3 * hidden,),
            f"{name}attention.out_proj.weight": (hidden, hidden),
            f"{name}attention.out_proj.bias": (hidden,),
            f"{name}ffn.0.weight": (2 * hidden, hidden),
            f"{name}ffn.0.bias": (2 * hidden,),
            f"{name}ffn.3.weight": (hidden, 2 * hidden),
            f"{name}ffn.3.bias": (hidden,),
            f"{name}norm.weight": (hidden,),
            f"{name}norm.bias": (hidden,),
            f"skips.{block}.weight": (hidden, hidden),
        }
    return shapes | {"final_skip.weight": (hidden, embedding)}
