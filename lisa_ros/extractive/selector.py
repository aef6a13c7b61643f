"""LLM-Seg's selector: which of the proposed masks the ``[SEG]`` state means.

Shapes: C conversations of one image, K proposals, D width (256 in the paper). Sizes are read off the tensors.
Paper: Wang and Ke, LLM-Seg, arXiv:2404.08767; reference: wangjunchi/LLMSeg 65147a98.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lisa_ros.errors import CheckpointError, ConfigError

HEADS = 8
"""Of every attention. The tensors do not tell."""

POOLING_SIDE = 256
"""Side of the grid over the padded square at which the reference pools features under masks."""

_MARK = "lisa_attention_layers.0.self_attn.q_proj.weight"
"""A name that every selector has; what stands in front of it stands in front of all its names."""


class _Attention(nn.Module):
    """Multi-head attention of SAM's form, without a narrower inside."""

    def __init__(self, width: int):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """(C, T, D) from (C, S, D): (C, T, D)."""
        q, k, v = (
            project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, key))
        )
        seen = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return out


class _Block(nn.Module):
    """Masks look at each other and at the text; the text looks at the masks."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.self_attn = _Attention(width)
        self.cross_attn_token_to_image = _Attention(width)
        self.cross_attn_image_to_token = _Attention(width)
        self.mlp = nn.ModuleDict({"lin1": nn.Linear(width, inner), "lin2": nn.Linear(inner, width)})
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, masks: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(C, K, D) and (C, 1, D) to the same."""
        masks = self.norm1(masks + self.self_attn(masks, masks))
        masks = self.norm2(masks + self.cross_attn_token_to_image(masks, text))
        masks = self.norm3(masks + self.mlp["lin2"](F.relu(self.mlp["lin1"](masks))))
        return masks, self.norm4(text + self.cross_attn_image_to_token(text, masks))


class Selector(nn.Module):
    """Two-way blocks between the proposals' features and the ``[SEG]`` embedding, and two heads.

    Args:
        width: D.
        blocks: Number of two-way blocks.
        inner: Units of the blocks' MLPs.
        iou_inner: Units of the head of IoP, named ``iou`` in checkpoints.
        embedding_inner: Units of the embedding head.
        features: Channels of the vision features before ``lisa_dino_conv``; None: no such convolution.
    """

    def __init__(
        self,
        width: int = 256,
        blocks: int = 2,
        inner: int = 2048,
        iou_inner: int = 128,
        embedding_inner: int = 2048,
        features: int | None = 1024,
    ):
        super().__init__()
        self.lisa_dino_conv = nn.Conv2d(features, width, 1) if features is not None else None
        self.lisa_attention_layers = nn.ModuleList(_Block(width, inner) for _ in range(blocks))
        self.lisa_final_attn = _Attention(width)
        self.lisa_norm_final_attn = nn.LayerNorm(width)
        self.lisa_iou_head = nn.Sequential(nn.Linear(width, iou_inner), nn.ReLU(), nn.Linear(iou_inner, 1))
        self.lisa_embedding_head = nn.Sequential(
            nn.Linear(width, embedding_inner), nn.ReLU(), nn.Linear(embedding_inner, width)
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Selector:
        """Build a selector of any size from tensors.

        Args:
            tensors: By the reference's names (``model.lisa_...``), with or without what stands in front of ``lisa_``.
                Others are left alone. Without ``lisa_dino_conv`` the features must be pooled already.

        Raises:
            CheckpointError: A tensor is missing or has another shape.
        """
        own = selector_tensors(tensors)
        try:
            shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
            block = "lisa_attention_layers.{}.norm1.weight"
            conv = shapes.get("lisa_dino_conv.weight")
            selector = cls(
                width=shapes[_MARK][0],
                blocks=next(number for number in range(len(own)) if block.format(number) not in own),
                inner=shapes["lisa_attention_layers.0.mlp.lin1.weight"][0],
                iou_inner=shapes["lisa_iou_head.0.weight"][0],
                embedding_inner=shapes["lisa_embedding_head.0.weight"][0],
                features=conv[1] if conv else None,
            )
            selector.load_state_dict({name: tensor.float() for name, tensor in own.items()})
        except (KeyError, IndexError) as error:
            raise CheckpointError(f"no selector of LLM-Seg in these tensors: {error} is missing") from error
        except RuntimeError as error:
            raise CheckpointError(
                f"these tensors are no selector of LLM-Seg: {' '.join(str(error).split())}"
            ) from error
        return selector.eval().requires_grad_(False)

    @property
    def width(self) -> int:
        """D."""
        return self.lisa_norm_final_attn.normalized_shape[0]

    def select(self, seg_embedding: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Compare every conversation's ``[SEG]`` with every proposal.

        Args:
            seg_embedding: (C, D), after ``text_hidden_fcs``.
            mask_features: (K, D), vision features under each mask.

        Returns:
            Cosine similarity (C, K) in [-1, 1], and the predicted share of each mask that belongs to what is meant,
            (C, K) in [0, 1] (IoP: intersection over the proposal). Both float32.
        """
        states = self.attend(seg_embedding, mask_features)
        return self.similarity(states, seg_embedding), self.iop(states)

    def attend(self, seg_embedding: Tensor, mask_features: Tensor) -> Tensor:
        """States (C, K, D) of the proposals after all blocks."""
        if not len(mask_features):
            return mask_features.new_zeros(len(seg_embedding), 0, self.width)
        masks = mask_features[None].expand(len(seg_embedding), -1, -1)
        text = seg_embedding[:, None]
        for block in self.lisa_attention_layers:
            masks, text = block(masks, text)
        states: Tensor = self.lisa_norm_final_attn(masks + self.lisa_final_attn(masks, text))
        return states

    def iop(self, states: Tensor) -> Tensor:
        """(C, K, D) to (C, K) float32 in [0, 1]."""
        return self.lisa_iou_head(states)[..., 0].float().sigmoid()

    def similarity(self, states: Tensor, seg_embedding: Tensor) -> Tensor:
        """(C, K, D) and (C, D) to (C, K) float32."""
        return F.cosine_similarity(self.lisa_embedding_head(states).float(), seg_embedding.float()[:, None], dim=-1)

    def pool(self, patches: Tensor, weights: Tensor) -> Tensor:
        """Features under each mask.

        Args:
            patches: (G * G, F) features of the padded square, row by row.
            weights: (K, s, s) float in [0, 1], how much of each cell every mask covers.

        Returns:
            (K, D) float32.
        """
        return self.project(pooled_features(patches, weights))

    def project(self, pooled: Tensor) -> Tensor:
        """Mean features (K, F) to (K, D) float32: the convolution has no extent, so it may follow the mean."""
        assert self.lisa_dino_conv is not None
        weight = self.lisa_dino_conv.weight.flatten(1)
        return F.linear(pooled.to(weight.dtype), weight, self.lisa_dino_conv.bias).float()


def pooled_features(patches: Tensor, weights: Tensor) -> Tensor:
    """Mean features under each mask.

    The reference doubles the grid of features to 256 x 256 and takes the mean there. The same mean is that of the
    features themselves under weights that are folded back to their grid, without the 64 MB of the doubled one.

    Args:
        patches: (G * G, F) features of the padded square, row by row.
        weights: (K, s, s) float in [0, 1], how much of each cell every mask covers.

    Returns:
        (K, F) float32; zeros for an empty mask.
    """
    side = round(patches.shape[0] ** 0.5)
    up = _doubling(side, weights.shape[-1]).to(weights)
    folded = (up.T @ weights @ up).flatten(1)  # (K, G * G)
    return folded @ patches.float() / (weights.sum((1, 2))[:, None] + 1e-8)


def selector_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The selector's tensors, under names that begin with ``lisa_``. Raises CheckpointError where there are none."""
    prefixes = [name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)]
    if not prefixes:
        raise CheckpointError(f"no selector of LLM-Seg in these tensors: none is named ...{_MARK}")
    return {
        name.removeprefix(prefixes[0]): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefixes[0]}lisa_")
    }


def _doubling(side: int, larger: int) -> Tensor:
    """(larger, side): bilinear upsampling along one axis as a matrix."""
    return F.interpolate(torch.eye(side)[None], larger, mode="linear", align_corners=False)[0].T


# --- the choice

CHOICES = ("similarity", "threshold", "both")
"""The most similar mask; all whose IoP is over a threshold, possibly none (the published way); or both."""


@dataclass(frozen=True)
class Choice:
    """How masks are chosen from similarities and shares.

    Args:
        rule: A name of ``CHOICES``.
        threshold: Of the IoP, in [0, 1].
    """

    rule: str = "threshold"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.rule not in CHOICES:
            raise ConfigError(f"option choice is {self.rule!r}; choose one of {', '.join(CHOICES)}")
        number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if not number or not 0 <= self.threshold <= 1:
            raise ConfigError(f"option threshold is {self.threshold!r}; give a number in [0, 1]")

    def of(self, similarity: Sequence[float] | NDArray, iop: Sequence[float] | NDArray) -> list[int]:
        """Indices of the chosen masks of one conversation, from (K,) and (K,); the most similar one first."""
        if not len(similarity):
            return []
        best = [int(np.argmax(similarity))] if self.rule != "threshold" else []
        over = [int(index) for index in np.flatnonzero(np.asarray(iop) > self.threshold)]
        return best + [index for index in over if index not in best and self.rule != "similarity"]
