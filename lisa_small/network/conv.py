"""A small convolutional image encoder behind SAM's interface.

The trunk has MobileNetV2's shape (Sandler et al., 2018) without normalisation layers: they are folded, so every layer
is a plain convolution that CPU libraries run well. A neck fuses strides 2 to 32 into one map at stride 8; SAM's mask
decoder then draws masks at stride 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (expansion, channels, blocks, stride of the first block): MobileNetV2, width 1.
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def bias_of(layer: nn.Conv2d) -> Tensor:
    """The bias of a convolution that has one."""
    assert layer.bias is not None
    return layer.bias


class InvertedResidual(nn.Module):
    """Expand (1x1), filter each channel (3x3), project (1x1); added to the input where the shapes agree."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int):
        super().__init__()
        hidden = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, hidden, 1) if expansion > 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden)
        self.project = nn.Conv2d(hidden, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h / stride, w / stride)."""
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, h, w): a view where the memory is channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(norm(x)))), 3x3 both."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(self.norm(x)), inplace=True))


class PatchConv2d(nn.Conv2d):
    """A convolution whose stride is its kernel, as one matrix product of its patches.

    Of 16 channels and with a kernel of 4 the convolution itself is wrong in bf16 on processors with AMX (torch 2.13: a
    relative error of 1.2). Of 24 channels with 2 and of 96 with 4, which are used here too, it was found right (0.003).
    Both sides of a map must be divisible by ``side``.
    """

    def __init__(self, channels_in: int, channels_out: int, side: int):
        super().__init__(channels_in, channels_out, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, h, w) -> (B, C_out, h / side, w / side)."""
        height, width = self.kernel_size
        rows = x.permute(0, 2, 3, 1).unflatten(2, (-1, width)).unflatten(1, (-1, height))
        patches = rows.transpose(2, 3).flatten(3)  # (B, h / side, w / side, side * side * C_in)
        return F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias).permute(0, 3, 1, 2)


MARGIN = 32
"""Pixels of padding that are looked at: less and what lies at the picture's edge is taken for something else."""


def _unpadded(pixels: Tensor) -> tuple[int, int]:
    """Height and width of the part of (B, 3, H, W), H and W divisible by 32, that holds all that is not 0, with MARGIN
    around it; both divisible by 32, too. No normalised pixel of a camera is 0 in any channel, so one tells."""
    shown = (pixels[:, 0] != 0).any(0)
    sides = []
    for side, lines in zip(shown.shape, (shown.any(1), shown.any(0)), strict=True):
        last = int(lines.nonzero().max()) + 1 if lines.any() else side
        sides.append(min(side, math.ceil((last + MARGIN) / 32) * 32))
    return sides[0], sides[1]


class ConvImageEncoder(nn.Module):
    """Pixels to SAM's image embedding.

    out_channels: C, the width of the prompt encoder and mask decoder. stages: the trunk, as in MOBILENET_STAGES.
    neck_blocks: residual blocks at stride 8 after the fusion.
    """

    stride = 8

    def __init__(
        self,
        out_channels: int = 128,
        stem_channels: int = 32,
        stages: Sequence[Sequence[int]] = MOBILENET_STAGES,
        neck_blocks: int = 2,
    ):
        super().__init__()
        self.out_channels = out_channels
        self.stem = nn.Conv2d(3, stem_channels, 3, 2, 1)
        blocks: list[nn.Module] = []
        self.taps: dict[int, int] = {}  # stride -> index of the last block at this stride
        channels, stride, width_at = stem_channels, 2, {}
        for expansion, width, count, first_stride in stages:
            stride *= first_stride
            for index in range(count):
                blocks.append(InvertedResidual(channels, width, first_stride if index == 0 else 1, expansion))
                channels = width
            self.taps[stride], width_at[stride] = len(blocks) - 1, width
        self.blocks = nn.ModuleList(blocks)
        # Finer maps are folded into the channels (space to depth): thin objects survive at stride 8.
        self.from_2 = PatchConv2d(width_at[2], out_channels, 4)
        self.from_4 = nn.Conv2d(width_at[4], out_channels, 2, 2)
        self.from_8 = nn.Conv2d(width_at[8], out_channels, 1)
        self.from_16 = nn.Conv2d(width_at[16], out_channels, 1)
        self.from_32 = nn.Conv2d(width_at[32], out_channels, 1)
        self.coarse = ResidualBlock(out_channels)
        self.neck = nn.Sequential(*(ResidualBlock(out_channels) for _ in range(neck_blocks)), ChannelNorm(out_channels))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised and padded as for SAM, S divisible by 32 -> (B, C, S / 8, S / 8).

        A model in use does not look at padding that lies more than MARGIN from the picture: what is seen at the edge is
        repeated there. Of a picture of 4:3 a fifth is not looked at so, which saves a tenth of the time, and what is
        seen of the rest differs by 1 %.
        """
        if self.training:
            return self._look(pixels)
        height, width = _unpadded(pixels)
        seen = self._look(pixels[:, :, :height, :width])
        right, below = (pixels.shape[3] - width) // self.stride, (pixels.shape[2] - height) // self.stride
        return F.pad(seen, (0, right, 0, below), mode="replicate") if right or below else seen

    def _look(self, pixels: Tensor) -> Tensor:
        x = F.relu6(self.stem(pixels.contiguous(memory_format=torch.channels_last)), inplace=True)
        maps = {}
        strides = {index: stride for stride, index in self.taps.items()}
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in strides:
                maps[strides[index]] = x
        coarse = self.from_16(maps[16]) + F.interpolate(self.from_32(maps[32]), scale_factor=2.0)
        coarse = F.interpolate(self.coarse(coarse), scale_factor=2.0)
        return self.neck(self.from_8(maps[8]) + self.from_4(maps[4]) + self.from_2(maps[2]) + coarse)
