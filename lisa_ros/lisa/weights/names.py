"""The reference's names of tensors and ours: one table, read in both directions.

``visual_model``, ``vision_tower``, ``mm_projector`` and ``text_hidden_fcs`` stand here alone.
"""

from __future__ import annotations

import re

from transformers import SamModel
from transformers.models.sam.modeling_sam import SamVisionEncoder

from lisa_ros.lisa.model.clip import ClipTower
from lisa_ros.lisa.model.lisa import Lisa

# The reference's name of a tensor | ours. {i} is a number, {rest} anything; the first line that matches wins. Read from
# left to right when loading, from right to left when saving.
_VIT_NAMES = """
image_encoder.patch_embed.proj.{rest}                      | vision_encoder.patch_embed.projection.{rest}
image_encoder.blocks.{i}.norm1.{rest}                      | vision_encoder.layers.{i}.layer_norm1.{rest}
image_encoder.blocks.{i}.norm2.{rest}                      | vision_encoder.layers.{i}.layer_norm2.{rest}
image_encoder.blocks.{i}.{rest}                            | vision_encoder.layers.{i}.{rest}
image_encoder.neck.0.{rest}                                | vision_encoder.neck.conv1.{rest}
image_encoder.neck.1.{rest}                                | vision_encoder.neck.layer_norm1.{rest}
image_encoder.neck.2.{rest}                                | vision_encoder.neck.conv2.{rest}
image_encoder.neck.3.{rest}                                | vision_encoder.neck.layer_norm2.{rest}
"""
_SAM_NAMES = """
image_encoder.{rest}                                       | vision_encoder.{rest}
prompt_encoder.pe_layer.positional_encoding_gaussian_matrix | shared_image_embedding.positional_embedding
prompt_encoder.point_embeddings.{rest}                     | prompt_encoder.point_embed.{rest}
prompt_encoder.mask_downscaling.0.{rest}                   | prompt_encoder.mask_embed.conv1.{rest}
prompt_encoder.mask_downscaling.1.{rest}                   | prompt_encoder.mask_embed.layer_norm1.{rest}
prompt_encoder.mask_downscaling.3.{rest}                   | prompt_encoder.mask_embed.conv2.{rest}
prompt_encoder.mask_downscaling.4.{rest}                   | prompt_encoder.mask_embed.layer_norm2.{rest}
prompt_encoder.mask_downscaling.6.{rest}                   | prompt_encoder.mask_embed.conv3.{rest}
mask_decoder.transformer.norm_final_attn.{rest}            | mask_decoder.transformer.layer_norm_final_attn.{rest}
mask_decoder.transformer.layers.{i}.norm1.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm1.{rest}
mask_decoder.transformer.layers.{i}.norm2.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm2.{rest}
mask_decoder.transformer.layers.{i}.norm3.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm3.{rest}
mask_decoder.transformer.layers.{i}.norm4.{rest}           | mask_decoder.transformer.layers.{i}.layer_norm4.{rest}
mask_decoder.output_upscaling.0.{rest}                     | mask_decoder.upscale_conv1.{rest}
mask_decoder.output_upscaling.1.{rest}                     | mask_decoder.upscale_layer_norm.{rest}
mask_decoder.output_upscaling.3.{rest}                     | mask_decoder.upscale_conv2.{rest}
mask_decoder.output_hypernetworks_mlps.{i}.layers.0.{rest} | mask_decoder.output_hypernetworks_mlps.{i}.proj_in.{rest}
mask_decoder.output_hypernetworks_mlps.{i}.layers.1.{rest} | mask_decoder.output_hypernetworks_mlps.{i}.layers.0.{rest}
mask_decoder.output_hypernetworks_mlps.{i}.layers.2.{rest} | mask_decoder.output_hypernetworks_mlps.{i}.proj_out.{rest}
mask_decoder.iou_prediction_head.layers.0.{rest}           | mask_decoder.iou_prediction_head.proj_in.{rest}
mask_decoder.iou_prediction_head.layers.1.{rest}           | mask_decoder.iou_prediction_head.layers.0.{rest}
mask_decoder.iou_prediction_head.layers.2.{rest}           | mask_decoder.iou_prediction_head.proj_out.{rest}
{rest}                                                     | {rest}
"""
_LISA_NAMES = """
model.mm_projector.{rest}                                  | image_projector.{rest}
model.text_hidden_fcs.0.{rest}                             | seg_projector.{rest}
model.vision_tower.vision_tower.vision_model.{rest}        | vision_tower.clip.{rest}
model.vision_tower.{rest}                                  | vision_tower.{rest}
model.presence.{rest}                                      | presence.{rest}
lm_head.{rest}                                             | lm_head.{rest}
model.{rest}                                               | llama.{rest}
"""
SAM_PREFIX = "model.visual_model."
# Before LoRA is merged, and in files that trainers write, the whole model is inside PEFT's wrapper.
PEFT_PREFIX = "base_model.model."
# Buffers that older releases saved and nobody reads: a rotary table (recomputed in fp32) and CLIP's position counter.
_IGNORED = re.compile(r".*(rotary_emb\.inv_freq|embeddings\.position_ids)$")


class Names:
    """The two directions of a table of names."""

    def __init__(self, *tables: str):
        rows = [[side.strip() for side in line.split("|")] for table in tables for line in table.strip().splitlines()]
        self._to_ours = [(_pattern(theirs), ours) for theirs, ours in rows]
        self._to_theirs = [(_pattern(ours), theirs) for theirs, ours in rows]

    def ours(self, theirs: str) -> str:
        return _translate(theirs, self._to_ours)

    def theirs(self, ours: str) -> str:
        return _translate(ours, self._to_theirs)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{rest\}", r"(?P<rest>.+)"))


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, template in table:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict())
    return name


SAM_NAMES = Names(_VIT_NAMES, _SAM_NAMES)
"""The official SAM, and SAM inside LISA with its ViT."""
_SAM_NAMES_OTHER_ENCODER = Names(_SAM_NAMES)
_NAMES = Names(_LISA_NAMES)


def _sam_names(sam: SamModel) -> Names:
    return SAM_NAMES if isinstance(sam.vision_encoder, SamVisionEncoder) else _SAM_NAMES_OTHER_ENCODER


def our_name(lisa: Lisa, theirs: str) -> str | None:
    """Our name of a tensor of the reference; None for one that is not loaded."""
    theirs = theirs.removeprefix(PEFT_PREFIX)
    if _IGNORED.fullmatch(theirs):
        return None
    if theirs.startswith(SAM_PREFIX):
        return "sam." + _sam_names(lisa.sam).ours(theirs.removeprefix(SAM_PREFIX))
    ours = _NAMES.ours(theirs)
    return None if _is_unread_layer(lisa, ours) else ours


def reference_name(lisa: Lisa, ours: str) -> str:
    """The reference's name of one of our tensors."""
    if ours.startswith("sam."):
        return SAM_PREFIX + _sam_names(lisa.sam).theirs(ours.removeprefix("sam."))
    return _NAMES.theirs(ours)


def clip_name(lisa: Lisa, theirs: str) -> str | None:
    """Our name of a tensor of a CLIP folder; None for CLIP's text half, its projections and layers nobody reads."""
    if is_text_half(theirs) or _IGNORED.fullmatch(theirs):
        return None
    ours = "vision_tower.clip." + theirs.removeprefix("vision_model.")
    return None if _is_unread_layer(lisa, ours) else ours


def is_text_half(theirs: str) -> bool:
    """Whether a tensor of a CLIP folder belongs to its text half or its projections, which LISA does not use."""
    return theirs.startswith(("text_model.", "logit_scale", "visual_projection", "text_projection"))


def _is_unread_layer(lisa: Lisa, ours: str) -> bool:
    """Whether a CLIP tensor belongs to a layer after the one LISA takes its features from."""
    match = re.match(r"vision_tower\.clip\.encoder\.layers\.(\d+)\.", ours)
    tower = lisa.vision_tower
    return match is not None and isinstance(tower, ClipTower) and int(match[1]) >= tower.clip.config.num_hidden_layers
