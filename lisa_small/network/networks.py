"""The demo model's networks in the place of the paper's."""

from __future__ import annotations

from torch import nn
from transformers import SamModel

from lisa_ros.lisa.model.clip import VisionTower
from lisa_ros.lisa.model.sam import embedding_side, prompt_config
from lisa_ros.lisa.weights.networks import ImageEncoder, Networks
from lisa_ros.lisa.weights.spec import ClipFolder, Spec
from lisa_small.network.conv import ConvImageEncoder
from lisa_small.network.presence import Presence
from lisa_small.network.tower import SharedTower


class SmallNetworks(Networks):
    """One convolutional encoder for both towers, recognition of classes and colours, and presence."""

    def image_encoder(self, spec: Spec) -> ImageEncoder | None:
        if spec.image_encoder is None:
            return super().image_encoder(spec)
        options = {name: value for name, value in spec.image_encoder.items() if name != "kind"}
        return ConvImageEncoder(**options)

    def vision_tower(self, spec: Spec, clip: ClipFolder | None, sam: SamModel) -> VisionTower:
        if spec.shared_tower is None:
            return super().vision_tower(spec, clip, sam)
        return SharedTower(
            prompt_config(sam).hidden_size,
            int(spec.shared_tower["grid"]),
            embedding_side(sam),
            spec.mm_hidden_size,
            int(spec.shared_tower.get("classes", 0)),
            int(spec.shared_tower.get("colours", 0)),
            bool(spec.shared_tower.get("things", False)),
        )

    def presence(self, spec: Spec) -> nn.Module | None:
        return Presence(spec.llama.hidden_size, spec.llama.vocab_size) if spec.presence else None
