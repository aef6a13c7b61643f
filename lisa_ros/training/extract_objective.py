"""The losses of an extractive model: the reference's (parity), and repaired ones.

The reference multiplies the logits of other pictures' proposals by 0, weights every proposal of the target with 1 and
all others with 0, and takes the mean over padding too. Repaired: such logits are -inf, proposals that overlap share
the target, and only trained tokens count.

B samples, T ids of a sample, L expanded positions, N proposals of the batch, V words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lisa_ros.extractive.model.llava import Elisa
from lisa_ros.extractive.model.vocabulary import GrownVocabulary
from lisa_ros.lisa.model.lisa import image_columns
from lisa_ros.training.losses import IGNORE


@dataclass(frozen=True, eq=False)
class ExtractBatch:
    """Samples of one step.

    Args:
        pixels: (B, 3, size, size) of the vision tower.
        embeddings: (N, D) of all proposals.
        ids: (B, T) of the grown vocabulary, padded on the left; IMAGE_ID once in each row.
        attended: (B, T) bool: not padding.
        labels: (B, T) the id that each position is to predict; IGNORE elsewhere.
        owner: (N,) sample of each proposal.
        soft: (B, T, N) share of each proposal in the target of a position that predicts a proposal; None: the label
            alone.
    """

    pixels: Tensor
    embeddings: Tensor
    ids: Tensor
    attended: Tensor
    labels: Tensor
    owner: Tensor
    soft: Tensor | None = None

    def to(self, device: torch.device) -> ExtractBatch:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


class ExtractObjective(nn.Module):
    """A batch to its loss: ``loss``, and ``words`` and ``choices``, its parts of words and proposals; float32 scalars.

    A module, so that what is wrapped for several devices is the whole computation.

    Args:
        model: Is trained.
    """

    def __init__(self, model: Elisa) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ExtractBatch) -> dict[str, Tensor]:
        rows = self.model.adapter(batch.embeddings)
        vocabulary = self.model.vocabulary(rows)
        hidden = read_samples(self.model, batch, vocabulary)  # (B, T, H)
        trained = batch.labels != IGNORE
        logits = vocabulary.logits(hidden[trained]).float()  # (M, V + N)
        sample = trained.nonzero()[:, 0]
        logits = logits.masked_fill(~own_ids(vocabulary, batch.owner, sample), -torch.inf)
        labels = batch.labels[trained]
        losses = F.cross_entropy(logits, labels, reduction="none")
        chosen = vocabulary.is_proposal(labels)
        if batch.soft is not None and chosen.any():
            shares = batch.soft[trained][chosen]  # (C, N)
            logs = logits[chosen].log_softmax(-1)[:, vocabulary.first : vocabulary.end]
            losses = losses.clone()
            losses[chosen] = -(shares * logs.masked_fill(shares == 0, 0.0)).sum(1)
        zero = losses.sum() * 0.0
        parts = {"words": losses[~chosen].mean() if (~chosen).any() else zero}
        parts["choices"] = losses[chosen].mean() if chosen.any() else zero
        return {"loss": losses.mean() if len(losses) else hidden.sum() * 0.0, **parts}


def read_samples(model: Elisa, batch: ExtractBatch, vocabulary: GrownVocabulary) -> Tensor:
    """Hidden states (B, T, H) of the batch's ids; the state of ``<image>`` is that of the last image token."""
    _, tokens = model.see(batch.pixels.to(model.dtype))  # (B, K, H)
    columns = image_columns(batch.ids, tokens.shape[1])  # (B, L)
    ids, attended = batch.ids.gather(1, columns), batch.attended.gather(1, columns)
    embedded = torch.stack(
        [model.embed(one, vocabulary, image) for one, image in zip(ids, tokens, strict=True)]
    )  # (B, L, H)
    positions = (attended.long().cumsum(1) - 1).masked_fill(~attended, 1)
    hidden = model.read(embedded, attention_mask=attended.long(), position_ids=positions)
    last = torch.ones_like(columns, dtype=torch.bool)
    last[:, :-1] = columns[:, 1:] != columns[:, :-1]
    return torch.stack([states[at] for states, at in zip(hidden, last, strict=True)])


def own_ids(vocabulary: GrownVocabulary, owner: Tensor, sample: Tensor) -> Tensor:
    """(M, V + N) bool: words, and the proposals of the own picture. Phantom rows are nobody's.

    Args:
        vocabulary: Of the batch.
        owner: (N,) sample of each proposal.
        sample: (M,) sample of each position.
    """
    own = torch.zeros(len(sample), len(vocabulary), dtype=torch.bool, device=sample.device)
    own[:, : vocabulary.first] = True
    own[:, vocabulary.first : vocabulary.end] = owner[None] == sample[:, None]
    return own


@dataclass(frozen=True)
class ReferenceLoss:
    """The reference's loss.

    Args:
        pos_weight: Of the proposals that are targets.
        neg_weight: Of the other proposals.
        temperature: Logits are divided by it.
    """

    pos_weight: float = 2.0
    neg_weight: float = 1.0
    temperature: float = 0.1

    def __call__(
        self, model: Elisa, batch: ExtractBatch, label_ids: Tensor, pad_id: int, positives: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of a batch.

        Args:
            model: Is trained.
            batch: Its ids as the reference feeds them; labels and soft targets are not used.
            label_ids: (B, L) labels, padded on the left; the last L positions predict them.
            pad_id: Padding among the labels.
            positives: The first so many proposals are targets.

        Returns:
            The loss, the masked logits (B, L, V + N) before the temperature, and the rows (N, H).
        """
        rows = model.adapter(batch.embeddings)
        vocabulary = model.vocabulary(rows)
        hidden = read_samples(model, batch, vocabulary)[:, -label_ids.shape[1] :]
        sample = torch.arange(len(label_ids), device=label_ids.device)
        allowed = own_ids(vocabulary, batch.owner, sample)
        allowed[:, vocabulary.end :] = True  # phantom rows are words to the reference
        logits = vocabulary.logits(hidden).float() * allowed[:, None]
        weights = logits.new_ones(len(vocabulary))
        weights[vocabulary.first : vocabulary.end] = self.neg_weight
        weights[vocabulary.first : vocabulary.first + positives] = self.pos_weight
        losses = F.cross_entropy(
            (logits / self.temperature).flatten(0, 1),
            label_ids.flatten(),
            weight=weights,
            ignore_index=pad_id,
            reduction="none",
        )
        return losses.mean(), logits, rows
