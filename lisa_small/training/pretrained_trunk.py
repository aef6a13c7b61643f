"""The image encoder's start: MobileNetV2 from MediaPipe's object detector, converted once.

Source: the npm package ``@mediapipe/objectron`` 0.4.1675468480 (Google, Apache-2.0). Its file
``objectron_solution_packed_assets.data`` holds ``object_detection_ssd_mobilenetv2_oidv4_fp16.tflite``, an SSD detector
of everyday things trained on Open Images V4; only its trunk is taken. Needs the package ``tflite``::

    npm pack @mediapipe/objectron && tar xzf mediapipe-objectron-*.tgz
    python -m lisa_small.training.pretrained_trunk package/objectron_solution_packed_assets.data trunk.safetensors
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.preprocess import SAM_MEAN, SAM_STD
from lisa_small.network.conv import ConvImageEncoder, InvertedResidual, bias_of

TFLITE_MAGIC = b"TFL3"


def convert(packed: bytes) -> dict[str, Tensor]:
    """The trunk's tensors, named as in ConvImageEncoder. Raises CheckpointError where the model is another one."""
    import tflite

    # The model follows a short list of labels; its magic stands four bytes after its beginning.
    model = tflite.Model.GetRootAsModel(packed[packed.index(TFLITE_MAGIC) - 4 :], 0)
    graph = model.Subgraphs(0)
    names = {value: name for name, value in vars(tflite.BuiltinOperator).items() if isinstance(value, int)}

    def kind(operator: tflite.Operator) -> str:
        code = model.OperatorCodes(operator.OpcodeIndex())
        return names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]

    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    stored = {o.Outputs(0): o.Inputs(0) for o in operators if kind(o) == "DEQUANTIZE"}

    def read(index: int) -> Tensor:
        tensor = graph.Tensors(stored[index])
        data = model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
        return torch.from_numpy(np.frombuffer(data, np.float16).reshape(tensor.ShapeAsNumpy()).astype(np.float32))

    encoder = ConvImageEncoder()
    layers = iter(_convolutions(encoder))
    layer = next(layers)
    for operator in operators:
        if kind(operator) not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            continue
        weight = read(operator.Inputs(1))
        # (out, h, w, in), or (1, h, w, channels) of a depthwise one, to PyTorch's (out, in, h, w).
        weight = weight.permute(3, 0, 1, 2) if kind(operator) == "DEPTHWISE_CONV_2D" else weight.permute(0, 3, 1, 2)
        if weight.shape != layer.weight.shape:
            continue  # the detector's heads, which branch off the trunk
        with torch.no_grad():
            layer.weight.copy_(weight)
            bias_of(layer).copy_(read(operator.Inputs(2)))
        following = next(layers, None)
        if following is None:
            break
        layer = following
    else:
        raise CheckpointError("this is not MediaPipe's MobileNetV2 detector: its layers do not fit the trunk")
    _accept_sam_pixels(encoder.stem)
    return {k: v.contiguous() for k, v in encoder.state_dict().items() if k.startswith(("stem", "blocks"))}


def _convolutions(encoder: ConvImageEncoder) -> list[nn.Conv2d]:
    layers = [encoder.stem]
    for block in cast(Iterable[InvertedResidual], encoder.blocks):
        layers += [layer for layer in (block.expand, block.depthwise, block.project) if layer is not None]
    return layers


@torch.no_grad()
def _accept_sam_pixels(stem: nn.Conv2d) -> None:
    """The detector read pixels in [-1, 1]; fold the step from SAM's units into the first layer."""
    mean, std = torch.tensor(SAM_MEAN), torch.tensor(SAM_STD)
    bias = bias_of(stem)
    bias += (stem.weight * (mean / 127.5 - 1)[:, None, None]).sum((1, 2, 3))
    stem.weight *= (std / 127.5)[:, None, None]


if __name__ == "__main__":
    save_file(convert(Path(sys.argv[1]).read_bytes()), sys.argv[2])
