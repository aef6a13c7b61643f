"""GSVA's evaluation: verdicts and masks of several targets while the model is given the true answer.

Source: Xia et al., GSVA, CVPR 2024, with the steps of its reference implementation. The question has a blank too many
and one too few, and the answer a form that no training answer has: published figures carry both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import Turn
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.prompt import Prompt, build_prompt
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter


def true_turn(names: Sequence[str], present: Sequence[bool]) -> Turn:
    """The question about all targets of an image, with its true answer.

    Args:
        names: Referring expressions.
        present: Whether each is in the image.
    """
    names = [name.strip().lower().strip().strip(".") for name in names]
    verdicts = ("[SEG]" if there else "[REJ]" for there in present)
    answer = ", ".join(f"{name}:{verdict}" for name, verdict in zip(names, verdicts, strict=True))
    return Turn(f" What are {', '.join(names)}in this image? Please output segmentation masks.", f"Sure,{answer}.")


@torch.inference_mode()
def judge(
    segmenter: Segmenter, encoded: EncodedImage, names: Sequence[str], present: Sequence[bool]
) -> list[tuple[bool, NDArray[np.bool_]]]:
    """Verdict and mask of each target.

    A verdict is the true one only if the model's first choice is the true token. All earlier targets are shown with
    their truth. The masks are those of a second pass, in which every target is given as present.

    Args:
        segmenter: A GSVA.
        encoded: The image.
        names: Referring expressions.
        present: Whether each is in the image.

    Returns:
        For each target, whether it is in the image by the model, and its mask (H, W).

    Raises:
        ConfigError: The model has no token for absent targets.
    """
    family, tokenizer = segmenter.family, segmenter.tokenizer
    mask_id, reject_id = tokenizer.id_of(family.mask_token), tokenizer.id_of(family.reject_token)
    if family.name != "gsva" or mask_id is None or reject_id is None:
        raise ConfigError(f"protocol gsva is for models of GSVA; {segmenter.name} is {family.name}")
    ids = _ids(segmenter, true_turn(names, present))
    slots = [at for at, token in enumerate(ids) if token in (mask_id, reject_id)]
    if len(slots) != len(names):
        raise ConfigError(f"a name among {list(names)} holds {family.mask_token} or {family.reject_token}")
    hidden = _states(segmenter, encoded, ids)
    choices = segmenter.grounding.logits(hidden[[at - 1 for at in slots]], encoded.features).argmax(-1).tolist()
    agrees = [choice == ids[at] for choice, at in zip(choices, slots, strict=True)]
    if reject_id in ids:
        hidden = _states(segmenter, encoded, [mask_id if token == reject_id else token for token in ids])
    masks = segmenter.mask_logits(encoded, hidden[[at - 1 for at in slots]]) >= 0
    return [(there == agreed, mask) for there, agreed, mask in zip(present, agrees, masks, strict=True)]


def _ids(segmenter: Segmenter, turn: Turn) -> list[int]:
    """Expanded ids. The names are a data set's, not a user's, so none of them is literal."""
    prompt = build_prompt([turn], segmenter.template, im_start_end=segmenter.spec.image_start_end)
    return segmenter.expand(Prompt(prompt.text))


def _states(segmenter: Segmenter, encoded: EncodedImage, ids: list[int]) -> Tensor:
    """(L, H) hidden states of ids."""
    whole = torch.tensor([ids], device=segmenter.device)
    return segmenter.lisa.read(segmenter.grounding.embed(whole, encoded.features.tokens))[0]
