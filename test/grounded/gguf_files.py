"""The tiny Qwen3-VL as GGUF files for llama.cpp: the language model, and the vision tower (mmproj)."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file
from tiny_models import CHAT_TEMPLATE, SPECIALS


def write(folder: Path, out: Path) -> tuple[Path, Path]:
    """Convert a folder of ``tiny_models.qwen3_vl``. Returns the files of language model and vision tower."""
    tensors = {
        name.removeprefix("model."): value.astype(np.float32)
        for name, value in load_file(folder / "model.safetensors").items()
    }
    config = json.loads((folder / "config.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    return _language(folder, config["text_config"], tensors, out), _vision(config["vision_config"], tensors, out)


def _language(folder: Path, text: dict, tensors: dict[str, np.ndarray], out: Path) -> Path:
    file = out / "language.gguf"
    writer = gguf.GGUFWriter(file, "qwen3vl")
    writer.add_name("tiny-qwen3-vl")
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(text["max_position_embeddings"])
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(text["head_dim"])
    writer.add_value_length(text["head_dim"])
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_freq_base(text["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_sections([*text["rope_parameters"]["mrope_section"], 0])
    writer.add_num_deepstack_layers(2)
    writer.add_vocab_size(text["vocab_size"])
    tokens = json.loads((folder / "tokenizer.json").read_text())["model"]
    names = sorted(tokens["vocab"], key=tokens["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(names)
    kinds = [gguf.TokenType.CONTROL if name in SPECIALS else gguf.TokenType.NORMAL for name in names]
    writer.add_token_types(kinds)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokens["merges"]]
    writer.add_token_merges(merges)
    writer.add_eos_token_id(names.index("<|im_end|>"))
    writer.add_pad_token_id(names.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    put = writer.add_tensor
    put("token_embd.weight", tensors["language_model.embed_tokens.weight"])
    put("output_norm.weight", tensors["language_model.norm.weight"])
    pairs = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(text["num_hidden_layers"]):
        for theirs, ours in pairs.items():
            put(f"blk.{layer}.{theirs}.weight", tensors[f"language_model.layers.{layer}.{ours}.weight"])
    return _written(writer, file)


def _vision(vision: dict, tensors: dict[str, np.ndarray], out: Path) -> Path:
    file = out / "mmproj.gguf"
    writer = gguf.GGUFWriter(file, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.QWEN3VL)
    writer.add_vision_use_gelu(True)
    side = int(vision["num_position_embeddings"] ** 0.5) * vision["patch_size"]
    writer.add_vision_image_size(side)
    writer.add_vision_patch_size(vision["patch_size"])
    writer.add_vision_embedding_length(vision["hidden_size"])
    writer.add_vision_feed_forward_length(vision["intermediate_size"])
    writer.add_vision_head_count(vision["num_heads"])
    writer.add_vision_block_count(vision["depth"])
    writer.add_vision_projection_dim(vision["out_hidden_size"])
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_spatial_merge_size(vision["spatial_merge_size"])
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    deep = vision["deepstack_visual_indexes"]
    writer.add_vision_is_deepstack_layers([layer in deep for layer in range(vision["depth"])])
    put = writer.add_tensor

    def both(theirs: str, ours: str) -> None:
        put(f"{theirs}.weight", tensors[f"visual.{ours}.weight"])
        put(f"{theirs}.bias", tensors[f"visual.{ours}.bias"])

    patch = tensors["visual.patch_embed.proj.weight"]  # (C, 3, 2, p, p): two moments of a video
    put("v.patch_embd.weight", np.ascontiguousarray(patch[:, :, 0]))
    put("v.patch_embd.weight.1", np.ascontiguousarray(patch[:, :, 1]))
    put("v.patch_embd.bias", tensors["visual.patch_embed.proj.bias"])
    put("v.position_embd.weight", tensors["visual.pos_embed.weight"])
    for layer in range(vision["depth"]):
        both(f"v.blk.{layer}.ln1", f"blocks.{layer}.norm1")
        both(f"v.blk.{layer}.ln2", f"blocks.{layer}.norm2")
        both(f"v.blk.{layer}.attn_qkv", f"blocks.{layer}.attn.qkv")
        both(f"v.blk.{layer}.attn_out", f"blocks.{layer}.attn.proj")
        both(f"v.blk.{layer}.ffn_up", f"blocks.{layer}.mlp.linear_fc1")
        both(f"v.blk.{layer}.ffn_down", f"blocks.{layer}.mlp.linear_fc2")
    both("v.post_ln", "merger.norm")
    both("mm.0", "merger.linear_fc1")
    both("mm.2", "merger.linear_fc2")
    for place, layer in enumerate(deep):
        both(f"v.deepstack.{layer}.norm", f"deepstack_merger_list.{place}.norm")
        both(f"v.deepstack.{layer}.fc1", f"deepstack_merger_list.{place}.linear_fc1")
        both(f"v.deepstack.{layer}.fc2", f"deepstack_merger_list.{place}.linear_fc2")
    return _written(writer, file)


def _written(writer: gguf.GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
