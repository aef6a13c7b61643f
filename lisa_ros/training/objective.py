"""What is minimised: the answer's cross-entropy and the masks' BCE and Dice, by LISA's weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lisa_ros.lisa.grounding import Features, Grounding
from lisa_ros.lisa.model.lisa import Lisa, image_columns
from lisa_ros.lisa.model.mask_decoder import upsample_logits
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_ros.training.batch import Batch
from lisa_ros.training.losses import IGNORE, answer_loss, mask_losses

GROWTH = 0.2
"""Share of a target's box by which its coarse target is longer on each side."""


@dataclass(frozen=True)
class LossWeights:
    """The reference's.

    Args:
        ce: Of the answer's cross-entropy.
        bce: Of the masks' binary cross-entropy.
        dice: Of the masks' Dice loss.
        rejected: Count rejected targets as masks without a gradient, as GSVA's reference does: a constant for each
            (BCE ln 2, Dice about 1), which also divides the gradients of the real masks.
        coarse: Of the coarse masks' BCE and Dice, relative to those of the masks; their target is the target's box,
            grown. CoReS' reference has none.
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    rejected: bool = False
    coarse: float = 0.0


class Objective(nn.Module):
    """A batch to its losses, weighted: ``loss``, and its parts ``ce``, ``bce`` and ``dice``; float32 scalars.

    A module, so that what is wrapped for several devices is the whole computation.

    Args:
        lisa: The model.
        grounding: The meaning of its tokens.
        weights: Of the losses.
        reject_id: Id of the token for a target that is not there; None: the family has none.
    """

    def __init__(self, lisa: Lisa, grounding: Grounding, weights: LossWeights, reject_id: int | None = None) -> None:
        super().__init__()
        self.lisa = lisa
        self.grounding = grounding
        self.weights = weights
        self.reject_id = reject_id

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        lisa = self.lisa
        frozen = lisa.llama.norm.weight.dtype
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
        bce, dice = self._masks(hidden, ids, tokens, embeddings, batch)
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
        self, hidden: Tensor, ids: Tensor, tokens: Tensor, embeddings: Tensor | None, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """BCE and Dice of the masks of all images, each at its own size.

        Args:
            hidden: (N, L, H).
            ids: (N, L), expanded.
            tokens: (N, K, H) image tokens.
            embeddings: (B, C, h, w); None where no image has a mask.
            batch: With the true masks.
        """
        truths = [mask.float() for mask in batch.masks]
        fine, coarse = truths, truths
        if embeddings is not None:
            image_of = torch.tensor(batch.image_of, device=ids.device)
            frames = []
            for number, size in enumerate(batch.sizes):
                rows = image_of == number
                frame = Features(tokens[rows][:1], embeddings[number : number + 1], size)
                frame.states = hidden[rows][0][ids[rows][0] == IMAGE_ID]  # the same in each row of the image
                frames.append(self._decoded(hidden[rows], ids[rows], frame))
            fine, coarse = [one for one, _ in frames], [one for _, one in frames]
        if self.weights.rejected and self.reject_id is not None:
            absent = [
                truth.new_zeros(int((ids[[one == number for one in batch.image_of]] == self.reject_id).sum()), *size)
                for number, (truth, size) in enumerate(zip(truths, batch.sizes, strict=True))
            ]
            fine = [torch.cat(pair) for pair in zip(fine, absent, strict=True)]
            bce, dice = mask_losses(fine, [torch.cat(pair) for pair in zip(truths, absent, strict=True)])
        else:
            bce, dice = mask_losses(fine, truths)
        if self.weights.coarse:
            coarse_bce, coarse_dice = mask_losses(coarse, [grown_boxes(truth) for truth in truths])
            bce, dice = bce + self.weights.coarse * coarse_bce, dice + self.weights.coarse * coarse_dice
        return bce, dice

    def _decoded(self, hidden: Tensor, ids: Tensor, frame: Features) -> tuple[Tensor, Tensor]:
        """Mask logits and coarse mask logits (S, H, W) float32 of one image, (n, L) ids of its conversations.

        The masks' gradients go through the coarse masks. Without coarse tokens, the second is the first.
        """
        assert frame.size is not None
        states = hidden[self.grounding.predicts_mask(ids)]  # (S, H)
        before = [place for row in ids.tolist() for place in self.grounding.coarse_of(row)]
        rows = self.grounding.predicts_mask(ids).nonzero()[:, 0].tolist()
        low_res: Tensor | None = None
        if before and all(place is not None for place in before):
            low_res = self.grounding.coarse_masks(hidden[rows, before], frame)
        masks = self.grounding.masks(states, frame, () if low_res is None else list(low_res))
        fine = upsample_logits(masks, frame.size, self.lisa.input_size)
        if low_res is None or not self.weights.coarse:
            return fine, fine
        return fine, upsample_logits(low_res.float(), frame.size, self.lisa.input_size)


def grown_boxes(masks: Tensor) -> Tensor:
    """The filled boxes around masks (S, H, W) of 0 and 1, longer by GROWTH of their side on each side."""
    boxes = torch.zeros_like(masks)
    for mask, box in zip(masks, boxes, strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if not len(rows):
            continue
        (top, bottom), (left, right) = (_grown(rows, mask.shape[0]), _grown(columns, mask.shape[1]))
        box[top:bottom, left:right] = 1
    return boxes


def _grown(places: Tensor, length: int) -> tuple[int, int]:
    first, last = int(places[0]), int(places[-1]) + 1
    more = round(GROWTH * (last - first))
    return max(first - more, 0), min(last + more, length)
