"""Tiny models of the classes that the engine ``grounded`` loads, with random weights; made in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIALS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save(model: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return folder


def decoder_config(width: int = 32) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "mlp_dim": 64,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": width,
    }


def _lively(sam: Any) -> Any:
    """Weights large enough that the prompt changes the mask; and there is always an object."""
    with torch.no_grad():
        for name, parameter in sam.mask_decoder.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:
                parameter.mul_(6.0)
        if hasattr(sam.mask_decoder, "pred_obj_score_head"):
            last = sam.mask_decoder.pred_obj_score_head.proj_out
            last.weight.zero_()
            last.bias.fill_(4.0)
    return sam


def sam2(folder: Path, width: int = 32) -> Path:
    """A Sam2Model of 256 x 256 pixels. width: channels of its embeddings."""
    torch.manual_seed(0)
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 16,
                "image_size": [256, 256],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [16, 32, 64, 128],
                "num_attention_heads_per_stage": [1, 1, 2, 4],
                "window_size_per_stage": [8, 4, 8, 4],
                "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [8, 8],
            },
            "backbone_channel_list": [128, 64, 32, 16],
            "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]],
            "fpn_hidden_size": width,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": 256},
        mask_decoder_config=decoder_config(width),
    )
    model = transformers.Sam2Model(config)
    save(_lively(model), folder)
    return folder


def sam1(folder: Path) -> Path:
    """A SamModel of 256 x 256 pixels."""
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 256,
            "patch_size": 16,
            "window_size": 8,
            "global_attn_indexes": [1],
            "mlp_dim": 64,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 256, "patch_size": 16},
        mask_decoder_config=decoder_config(),
    )
    return save(_lively(transformers.SamModel(config)), folder)


SAM3_VIT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 14,
    "window_size": 8,
    "global_attn_indexes": [1],
    "pretrain_image_size": 112,
}
SAM3_SIZES = [[64, 64], [32, 32], [16, 16]]


def sam3_tracker(folder: Path) -> Path:
    """A Sam3TrackerModel of 224 x 224 pixels."""
    torch.manual_seed(0)
    config = transformers.Sam3TrackerConfig(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {"model_type": "sam3_vit_model", **SAM3_VIT},
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": SAM3_SIZES,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 224},
        mask_decoder_config=decoder_config(),
    )
    return save(_lively(transformers.Sam3TrackerModel(config)), folder)


# --- vision-language models


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, as Qwen's."""
    lines = [f'{{"bbox_2d": [{n}, {n + 1}], "label": "red cup", "present": true}} yes no' for n in range(0, 1100, 7)]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    # Qwen2's own pattern, which llama.cpp implements as the pre-tokenizer "qwen2".
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    pattern += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(lines, trainer)
    whole = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )
    folder.mkdir(parents=True, exist_ok=True)
    whole.save_pretrained(folder)
    return whole


def _token_ids(tokens: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "image_token_id": tokens.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokens.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokens.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokens.convert_tokens_to_ids("<|vision_end|>"),
    }


def qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """A Qwen3VLForConditionalGeneration with tokenizer and image processor."""
    tokens = tokenizer(folder)
    torch.manual_seed(seed)
    end = tokens.convert_tokens_to_ids("<|im_end|>")
    config = transformers.Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 8192,
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": tokens.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 16,
            "out_hidden_size": 64,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.1,
        },
        tie_word_embeddings=True,
        **_token_ids(tokens),
    )
    model = transformers.Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = end
    save(model, folder)
    image_processor(folder, patch=16, mean=[0.5] * 3, std=[0.5] * 3)
    return folder


def qwen2_5_vl(folder: Path) -> Path:
    """A Qwen2_5_VLForConditionalGeneration with tokenizer and image processor."""
    tokens = tokenizer(folder)
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
            "bos_token_id": None,
            "eos_token_id": tokens.convert_tokens_to_ids("<|im_end|>"),
            "pad_token_id": tokens.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=True,
        **_token_ids(tokens),
    )
    save(transformers.Qwen2_5_VLForConditionalGeneration(config), folder)
    image_processor(
        folder, patch=14, mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711]
    )
    return folder


def image_processor(folder: Path, patch: int, mean: list[float], std: list[float]) -> None:
    content = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": mean,
        "image_std": std,
        "size": {"shortest_edge": 3136, "longest_edge": 12845056},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def recipe(folder: Path, locator: dict[str, str] | None, cutter: dict[str, str] | None) -> Path:
    """engine.json."""
    content: dict[str, Any] = {"engine": "grounded"}
    content |= {"locator": locator} if locator is not None else {}
    content |= {"cutter": cutter} if cutter is not None else {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "engine.json").write_text(json.dumps(content))
    return folder


# --- a model that knows some scenes by heart

QUESTION = "find the red square"
SCENES = 8


def scene(number: int) -> tuple[NDArray[np.uint8], tuple[int, int, int, int] | None]:
    """A picture uint8 (128, 160, 3) with coloured squares, and x1, y1, x2, y2 of the red one; None in every fourth."""
    rng = np.random.default_rng(number)
    rgb = np.full((128, 160, 3), 40, np.uint8)
    corners = [(x, y) for y in range(0, 128, 32) for x in range(0, 160, 32)]
    rng.shuffle(corners)
    colours = [(20, 200, 60), (60, 90, 240), (220, 30, 30)][: 2 if number % 4 == 3 else 3]
    for (x, y), colour in zip(corners, colours, strict=False):
        rgb[y : y + 32, x : x + 32] = colour
    x, y = corners[2]
    return rgb, None if number % 4 == 3 else (int(x), int(y), int(x) + 32, int(y) + 32)


def answer(box: tuple[int, int, int, int] | None) -> str:
    """What the fitted model says about a box of :func:`scene`, in 0..1000."""
    if box is None:
        return '{"present": false, "objects": []}'
    x1, y1, x2, y2 = (round(1000 * value / side) for value, side in zip(box, (160, 128, 160, 128), strict=True))
    return f'{{"present": true, "objects": [{{"label": "red square", "bbox_2d": [{x1}, {y1}, {x2}, {y2}]}}]}}'


def fitted_qwen3_vl(folder: Path) -> Path:
    """:func:`qwen3_vl`, fitted until it answers :data:`QUESTION` about all scenes rightly."""
    from lisa_ros.grounded.locators.chat import Message
    from lisa_ros.grounded.locators.qwen import QwenChat
    from lisa_ros.grounded.recipe import Part
    from lisa_ros.grounded.weights.load import Place

    qwen3_vl(folder)
    chat = QwenChat.load(Part(folder, "qwen3_vl"), Place.pick("cpu", "fp32"))
    model = chat.model.train().requires_grad_(True)
    rows, pixels, grids = [], [], []
    for number in range(SCENES):
        rgb, box = scene(number)
        picture = chat.picture(rgb)
        inputs = chat._inputs([Message("user", QUESTION, picture)], 1)["input_ids"][0].tolist()
        words = chat.tokenizer(answer(box) + "<|im_end|>")["input_ids"]
        rows.append((inputs, words))
        pixels.append(picture.pixels.clone())
        grids.append(picture.grid)
    longest = max(len(a) + len(b) for a, b in rows)
    ids = torch.full((SCENES, longest), chat.tokenizer.pad_token_id)
    labels = torch.full((SCENES, longest), -100)
    for row, (a, b) in enumerate(rows):
        ids[row, : len(a) + len(b)] = torch.tensor(a + b)
        labels[row, len(a) : len(a) + len(b)] = torch.tensor(b)
    batch = {
        "input_ids": ids,
        "attention_mask": (torch.arange(longest) < torch.tensor([len(a) + len(b) for a, b in rows])[:, None]).long(),
        "mm_token_type_ids": (ids == chat._image_token).int(),
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.cat(grids),
    }
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        logits = model(**batch).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
        worst, loss = losses.max().item(), losses.sum() / (labels >= 0).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if worst < 0.1:
            break
    assert worst < 0.5, f"the least probable of the true tokens has a loss of {worst:.2f}"
    model.save_pretrained(folder)
    return folder


# --- noun phrases and concepts


def word_tokenizer(folder: Path, kind: str = "bert") -> int:
    """A tokenizer of whole words. Returns its size."""
    words = ["red", "cup", "fork", "screwdriver", "a", "the", "blue", "green", "thing", "person", "cat", ".", "?"]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "bert":
        vocabulary = {
            word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
        }
        made = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=True)
    else:
        vocabulary = {word: number for number, word in enumerate(["<|startoftext|>", "<|endoftext|>", *words])}
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        made = PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
        )
    made.save_pretrained(folder)
    return len(made)


def _grounding_dino(folder: Path, name: str) -> Path:
    size = word_tokenizer(folder)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 4, 8],
            "window_size": 4,
            "out_features": ["stage2", "stage3", "stage4"],
        },
        text_config={
            "model_type": "bert",
            "vocab_size": size,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=20,
        encoder_n_points=2,
        decoder_n_points=2,
        max_text_len=64,
    )
    model = getattr(transformers, f"{name}ForObjectDetection")(config)
    with torch.no_grad():  # scores below 1
        model.model.decoder.layer_norm.weight.mul_(0.1)
    save(model, folder)
    content = {
        "image_processor_type": "GroundingDinoImageProcessor",
        "size": {"shortest_edge": 128, "longest_edge": 256},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def grounding_dino(folder: Path) -> Path:
    return _grounding_dino(folder, "GroundingDino")


def mm_grounding_dino(folder: Path) -> Path:
    return _grounding_dino(folder, "MMGroundingDino")


def clipseg(folder: Path) -> Path:
    size = word_tokenizer(folder, "clip")
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = transformers.CLIPSegConfig(
        text_config={
            **tower,
            "num_hidden_layers": 2,
            "vocab_size": size,
            "eos_token_id": 1,
            "pad_token_id": 1,
            "bos_token_id": 0,
        },
        vision_config={**tower, "num_hidden_layers": 3, "image_size": 64, "patch_size": 16},
        extract_layers=[0, 1, 2],
        reduce_dim=16,
        projection_dim=32,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=64,
    )
    model = transformers.CLIPSegForImageSegmentation(config)
    with torch.no_grad():  # probabilities below 1
        for parameter in model.decoder.transposed_convolution.parameters():
            parameter.mul_(0.1)
    save(model, folder)
    content = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def sam3(folder: Path) -> Path:
    size = word_tokenizer(folder, "clip")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = transformers.Sam3Config(
        vision_config={
            "model_type": "sam3_vision_model",
            "backbone_config": {"model_type": "sam3_vit_model", **SAM3_VIT},
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": SAM3_SIZES,
        },
        text_config={
            "model_type": "clip_text_model",
            "vocab_size": size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "projection_dim": 32,
            "max_position_embeddings": 32,
            "eos_token_id": 1,
            "bos_token_id": 0,
            "pad_token_id": 1,
        },
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 1},
        detr_decoder_config={**small, "num_layers": 1, "num_queries": 10},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 4},
    )
    return save(transformers.Sam3Model(config), folder)


def llava(folder: Path) -> Path:
    """A LlavaForConditionalGeneration, which ``transformers serve`` serves without torchvision."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokens = tokenizer(folder)
    tokens.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokens.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>\n{% endif %}{% endfor %}\n{% endfor %}"
        "assistant: "
    )
    image = tokens.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **tower, "image_size": 64, "patch_size": 16},
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokens),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
            "eos_token_id": tokens.eos_token_id,
            "bos_token_id": None,
        },
        image_token_index=image,
    )
    save(transformers.LlavaForConditionalGeneration(config), folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokens,
        patch_size=16,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=tokens.chat_template,
    ).save_pretrained(folder)
    return folder


# --- checkpoints of videos, as the released SAM 2.1 and SAM 3 are


def _memory(width: int, grid: int) -> dict[str, Any]:
    return {
        "memory_attention_hidden_size": width,
        "memory_attention_num_layers": 1,
        "memory_attention_num_attention_heads": 1,
        "memory_attention_feed_forward_hidden_size": 2 * width,
        "memory_attention_rope_feat_sizes": [grid, grid],
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": width // 2,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 2 * width,
        "memory_fuser_num_layers": 1,
    }


def _parts(config: Any) -> dict[str, Any]:
    names = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    return {name: getattr(config, name).to_dict() for name in names}


def sam2_video(folder: Path) -> Path:
    """A Sam2VideoModel. transformers fixes the memory at 64 channels, and wants two of them in a pointer at least."""
    image = transformers.Sam2Config.from_pretrained(sam2(folder.with_name("sam2_of_video"), width=128))
    torch.manual_seed(0)
    config = transformers.Sam2VideoConfig(**_parts(image), image_size=256, **_memory(128, 16))
    return save(_lively(transformers.Sam2VideoModel(config)), folder)


def sam3_video(folder: Path) -> Path:
    """A Sam3VideoModel: concepts and tracker in one file."""
    detector = transformers.Sam3Config.from_pretrained(sam3(folder.with_name("sam3_of_video")))
    image = transformers.Sam3TrackerConfig.from_pretrained(sam3_tracker(folder.with_name("tracker_of_video")))
    tracker = transformers.Sam3TrackerVideoConfig(**_parts(image), image_size=224, **_memory(32, 16))
    torch.manual_seed(0)
    config = transformers.Sam3VideoConfig(detector_config=detector.to_dict(), tracker_config=tracker.to_dict())
    save(transformers.Sam3VideoModel(config), folder)
    # transformers 5.23 writes this prefix twice; the released file has it once.
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("tracker_model.tracker_model.", "tracker_model."): t for name, t in tensors.items()}, file)
    word_tokenizer(folder, "clip")
    return folder
