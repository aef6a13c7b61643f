"""Training of LISA's relatives: ids, labels, losses and gradients are those of their references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from goldens import ALL_FULL, GOLDEN, read_rgb

from lisa_ros.data.picture import BadExample
from lisa_ros.engine.api import Turn
from lisa_ros.lisa import grounding
from lisa_ros.lisa.family import FAMILIES, Family
from lisa_ros.lisa.grounding import seg_grounding
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.points import similarity_points
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.names import PEFT_PREFIX, reference_name
from lisa_ros.lisa.weights.spec import Spec, read_clip, read_spec
from lisa_ros.training.batch import Batch, Batcher
from lisa_ros.training.collate import answer_spans
from lisa_ros.training.datasets.example import Dialogue, Example
from lisa_ros.training.lora import LoraOptions, prepare_training, training_mode
from lisa_ros.training.objective import LossWeights, Objective, grown_boxes

CPU = torch.device("cpu")
NO_LORA = LoraOptions(rank=0)


def cases() -> list[Any]:
    """(family, folder, checkpoint's folder, facts) of every batch of the compact and of the full goldens."""
    found: list[Any] = []
    for family, full in (
        ("sesame", "SESAME"),
        ("read", "READ"),
        ("lasagna", "LaSagnA"),
        ("gsva", "GSVA"),
        ("cores", "CORES"),
    ):
        places = [(GOLDEN / family, GOLDEN / family / "train.json", "ckpt")]
        if (ALL_FULL / f"{full}-A").is_dir():
            folder = ALL_FULL / f"{full}-A"
            places.append((folder, folder / "cases.json", "merged" if family == "gsva" else "ckpt"))
        for folder, file, checkpoint in places:
            if not file.is_file():
                continue
            train = json.loads(file.read_text("utf-8"))["train"]
            for name, facts in ({"batch": train} if "npz" in train else train).items():
                if "losses" in facts:
                    id = f"{folder.name}-{name}"
                    found.append(pytest.param(family, folder, folder / checkpoint, facts, id=id))
    return found


def load(folder: Path, checkpoint: Path) -> tuple[Lisa, Spec, Tokenizer]:
    spec = read_spec(checkpoint)
    lisa, _ = load_lisa(checkpoint, read_clip(folder / "clip-tiny"), Precision.pick("fp32", CPU), CPU)
    return lisa, spec, Tokenizer.from_folder(checkpoint, strips_blanks=spec.strips_blanks)


def examples(folder: Path, facts: dict[str, Any], family: Family) -> list[Example]:
    """The batch's conversations; masks of rejected targets, which are empty, are left out."""
    arrays, made = np.load(folder / facts["npz"]), []
    for number, image in enumerate(facts["images"]):
        rgb = read_rgb(folder / Path(image).name) if folder.parent == GOLDEN else read_rgb(folder / image)
        shape = tuple(arrays[f"masks_{number}_shape"])
        masks = np.unpackbits(arrays[f"masks_{number}_bits"])[: np.prod(shape)].reshape(shape)
        dialogues = []
        for text in facts["conversations"][facts["offset"][number] : facts["offset"][number + 1]]:
            question, _, answer = text.partition("<im_end>\n")[2].partition(" ASSISTANT: ")
            answer = answer.removesuffix("</s>")
            tokens = [one for one in split(answer, family) if one in (family.mask_token, family.reject_token)]
            slots = tokens if family.name == "gsva" else [one for one in tokens if one == family.mask_token]
            mine, masks = masks[: len(slots)], masks[len(slots) :]
            present = [mask for mask, slot in zip(mine, slots, strict=True) if slot == family.mask_token]
            stacked = np.stack(present) if present else np.zeros((0, *rgb.shape[:2]), np.uint8)
            dialogues.append(Dialogue((Turn(question, answer),), stacked, family))
        assert not len(masks)
        made.append(Example(image, rgb, tuple(dialogues)))
    return made


def split(answer: str, family: Family) -> list[str]:
    for token in family.answer_tokens:
        answer = answer.replace(token, f"\0{token}\0")
    return answer.split("\0")


def no_skip(reason: str) -> None:
    raise AssertionError(reason)


def batch_of(folder: Path, facts: dict[str, Any], lisa: Lisa, spec: Spec, tokenizer: Tokenizer) -> Batch:
    clip = read_clip(folder / "clip-tiny").preprocessing
    conversation = template("llava_v1" if " human " in facts["conversations"][0] else "v1")
    if spec.family.name == "cores":
        conversation = template(spec.conversation)
    how = Batcher(tokenizer, conversation, True, lisa.input_size, clip, 512, spec.family)
    return how.join([how.prepare(example, no_skip) for example in examples(folder, facts, spec.family)])


@pytest.mark.parametrize(("name", "folder", "checkpoint", "facts"), cases())
def test_losses_and_gradients_are_the_references(
    name: str, folder: Path, checkpoint: Path, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "read":
        # Its reference takes the size of the k-th conversation for the k-th mask, though not all have one. In this
        # batch, the second picture's points are computed for the first one's size.
        first = read_rgb(folder / facts["images"][0]).shape[:2]
        monkeypatch.setattr(
            grounding,
            "similarity_points",
            lambda similarity, size, points: similarity_points(similarity, first, points),
        )
    lisa, spec, tokenizer = load(folder, checkpoint)
    with_lora = name == "gsva" and (folder / "released").is_dir()
    prepare_training(lisa, LoraOptions(dropout=0.0) if with_lora else NO_LORA, quantised=False, checkpointing=False)
    if with_lora:
        take_lora(lisa, folder / "released" / "gsva.bin")
    else:
        lisa.llama.layers[0].self_attn.q_proj.requires_grad_(True)  # frozen in a run; the golden has its gradient
    lisa.sam.prompt_encoder.point_embed[1].requires_grad_(True)
    training_mode(lisa, True)
    batch = batch_of(folder, facts, lisa, spec, tokenizer)
    arrays = np.load(folder / facts["npz"])
    assert np.array_equal(batch.ids, arrays["input_ids"])
    assert np.array_equal(batch.labels, arrays["labels"])
    # GSVA's reference counts rejected targets in the losses of masks.
    weights = LossWeights(rejected=name == "gsva")
    objective = Objective(
        lisa, seg_grounding(lisa, spec, tokenizer), weights, tokenizer.id_of(spec.family.reject_token)
    )
    losses = objective(batch)
    for ours, theirs in {"loss": "loss", "ce": "ce_loss", "bce": "mask_bce_loss", "dice": "mask_dice_loss"}.items():
        assert losses[ours].item() == pytest.approx(facts["losses"][theirs], rel=1e-4, abs=1e-6), ours
    losses["loss"].backward()
    found = {
        reference_name(lisa, ours.replace(".base_layer", "")): parameter.grad
        for ours, parameter in lisa.named_parameters()
        if parameter.grad is not None
    }
    compared = 0
    for theirs, norm in facts["grad_l2_norms"].items():
        plain = theirs.removeprefix(PEFT_PREFIX)
        # The projector of the image is frozen in a run; a compact golden of GSVA has its LoRA merged.
        if plain.startswith("model.mm_projector") or ("lora_" in plain and not with_lora):
            continue
        assert found[plain].norm().item() == pytest.approx(norm, rel=1e-3), theirs
        compared += 1
    assert compared >= 5


def take_lora(lisa: Lisa, file: Path) -> None:
    """Unmerged weights: the base's matrices and LoRA of the released file."""
    tensors = torch.load(file, weights_only=True)
    for name, parameter in lisa.named_parameters():
        theirs = PEFT_PREFIX + reference_name(lisa, name.replace(".base_layer", ""))
        if ".self_attn." in name and name.startswith("llama.") and theirs in tensors:
            parameter.data = tensors[theirs].float()


def test_the_gradient_goes_through_the_coarse_mask() -> None:
    (case,) = [one.values for one in cases() if one.values[0] == "cores"][:1]
    _, folder, checkpoint, facts = case
    lisa, spec, tokenizer = load(folder, checkpoint)
    prepare_training(lisa, NO_LORA, quantised=False, checkpointing=False)
    embeddings: list[torch.Tensor] = []

    def remember(module: object, inputs: object, output: torch.Tensor) -> None:
        output.retain_grad()
        embeddings.append(output)

    lisa.seg_projector.register_forward_hook(remember)
    batch = batch_of(folder, facts, lisa, spec, tokenizer)
    Objective(lisa, seg_grounding(lisa, spec, tokenizer), LossWeights(ce=0.0))(batch)["loss"].backward()
    arrays = np.load(folder / facts["npz"])
    coarse = torch.cat([one.grad for one in embeddings[::2] if one.grad is not None])
    fine = torch.cat([one.grad for one in embeddings[1::2] if one.grad is not None])
    np.testing.assert_allclose(coarse, arrays["grad_sema_embeddings"], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(fine, arrays["grad_seg_embeddings"], rtol=1e-3, atol=1e-7)


def test_rejected_targets_add_a_constant_where_that_is_asked_for() -> None:
    """Without it, the losses of the masks are those of the real masks alone."""
    found = [one.values for one in cases() if one.values[0] == "gsva"]
    _, folder, checkpoint, facts = found[0]
    lisa, spec, tokenizer = load(folder, checkpoint)
    batch = batch_of(folder, facts, lisa, spec, tokenizer)
    reject, meaning = tokenizer.id_of("[REJ]"), seg_grounding(lisa, spec, tokenizer)
    with torch.no_grad():
        plain = Objective(lisa, meaning, LossWeights(), reject)(batch)
        constant = Objective(lisa, meaning, LossWeights(rejected=True), reject)(batch)
    real, all_slots = sum(len(masks) for masks in batch.masks), sum(facts["n_masks"])
    expected = (real * plain["bce"].item() / 2.0 + (all_slots - real) * 0.693147) * 2.0 / all_slots
    assert constant["bce"].item() == pytest.approx(expected, rel=1e-4)
    assert plain["ce"].item() == pytest.approx(constant["ce"].item(), rel=1e-6)


def test_an_example_in_the_system_text_is_not_trained() -> None:
    folder = GOLDEN / "cores" / "ckpt"
    tokenizer, how = Tokenizer.from_folder(folder), template("cores_v1")
    text = how.open + "<im_start><image><im_end>\nthe cup" + how.question_end + " It is [SEG]." + how.answer_end
    ((begin, end),) = answer_spans(text, tokenizer, how)
    assert tokenizer.answer_text(tokenizer.encode_prompt(text)[begin:end]) == "It is [SEG]."
    with pytest.raises(ValueError, match="a turn needs one"):
        answer_spans(text.replace("the cup", "the ASSISTANT: cup"), tokenizer, how)


@pytest.mark.parametrize(
    ("family", "answer", "masks"),
    [
        ("cores", "It is [SEG].", 1),  # no coarse mask
        ("cores", "It usually appears on [SEG_SEMA].", 0),
        ("gsva", "Sure, they are cup:[SEG].", 0),
        ("lasagna", "It is [SEG].", 1),
        ("gsva", "It is <im_start>.", 0),
    ],
)
def test_tokens_and_masks_that_do_not_match_are_a_bad_example(family: str, answer: str, masks: int) -> None:
    with pytest.raises(BadExample):
        Dialogue((Turn("the cup", answer),), np.zeros((masks, 4, 4), np.uint8), FAMILIES[family])


def test_a_coarse_target_is_the_grown_box() -> None:
    mask = torch.zeros(2, 20, 20)
    mask[0, 5:15, 8:18] = 1
    (box, empty) = grown_boxes(mask)
    assert box[3:17, 6:20].all() and box.sum() == 14 * 14
    assert not empty.any()
