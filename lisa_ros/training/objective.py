"""What is minimised: the answer's cross-entropy and the masks' BCE and Dice, by LISA's weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lisa_ros.lisa.grounding import Features, Grounding, SegGrounding
from lisa_ros.lisa.model.lisa import Lisa, image_columns
from lisa_ros.lisa.model.mask_decoder import upsample_logits
from lisa_ros.training.batch import Batch
from lisa_ros.training.losses import IGNORE, answer_loss, mask_losses


@dataclass(frozen=True)
class LossWeights:
    """The reference's."""

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5


class Objective(nn.Module):
    """A batch to its losses, weighted: ``loss``, and its parts ``ce``, ``bce`` and ``dice``; float32 scalars.

    A module, so that what is wrapped for several devices is the whole computation.
    """

    def __init__(self, lisa: Lisa, seg_token_id: int, weights: LossWeights) -> None:
        super().__init__()
        self.lisa = lisa
        self.grounding: Grounding = SegGrounding(lisa, seg_token_id)
        self.weights = weights

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        lisa = self.lisa
        frozen = next(lisa.image_projector.parameters()).dtype
        with torch.no_grad():
            embeddings: Tensor | None = None
            if lisa.shares_encoder or any(len(mask) for mask in batch.masks):
                embeddings = lisa.embed_image(batch.pixels.to(frozen))  # (B, C, h, w)
            tower_input = embeddings if batch.tower_pixels is None else batch.tower_pixels.to(frozen)
            assert tower_input is not None  # a model without pixels of its own for the tower shares its encoder
            tokens = lisa.image_tokens(tower_input)  # (B, K, H)
        tokens = tokens[list(batch.image_of)]  # (N, K, H)
        columns = image_columns(batch.ids, tokens.shape[1])  # (N, L)
        ids, labels = batch.ids.gather(1, columns), batch.labels.gather(1, columns)
        hidden = lisa.read(self.grounding.embed(ids, tokens).to(frozen))  # (N, L, H)
        ce = self.weights.ce * self._answers(hidden, labels, tokens)
        predicts = self.grounding.predicts_mask(ids)  # (N, L)
        bce, dice = mask_losses(
            self._masks(hidden, predicts, tokens, embeddings, batch), [mask.float() for mask in batch.masks]
        )
        bce, dice = self.weights.bce * bce, self.weights.dice * dice
        return {"loss": ce + bce + dice, "ce": ce, "bce": bce, "dice": dice}

    def _answers(self, hidden: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
        """Cross-entropy of the answers, labels (N, L).

        The head reads only the positions that are trained: its logits are the largest tensor of all.
        """
        trained = labels[:, 1:] != IGNORE
        rows = zip(hidden[:, :-1], trained, tokens, strict=True)
        logits = torch.cat([self.grounding.logits(states[at], Features(image[None])) for states, at, image in rows])
        # (M, V). answer_loss looks one ahead, so the ids stand one later than their logits.
        return answer_loss(F.pad(logits, (0, 0, 0, 1))[None], F.pad(labels[:, 1:][trained], (1, 0), value=IGNORE)[None])

    def _masks(
        self, hidden: Tensor, predicts: Tensor, tokens: Tensor, embeddings: Tensor | None, batch: Batch
    ) -> list[Tensor]:
        """Mask logits of each image at its own size: (S, H, W) float32.

        Args:
            predicts: (N, L) bool, the positions that predict a mask token.
            tokens: (N, K, H) image tokens.
            embeddings: (B, C, h, w); None where no image has a mask.
        """
        if embeddings is None:
            return [mask.float() for mask in batch.masks]
        image_of = torch.tensor(batch.image_of, device=predicts.device)
        logits = []
        for number, size in enumerate(batch.sizes):
            rows = image_of == number
            frame = Features(tokens[rows][:1], embeddings[number : number + 1])
            low_res = self.grounding.masks(hidden[rows][predicts[rows]], frame)
            logits.append(upsample_logits(low_res, size, self.lisa.input_size))
        return logits
