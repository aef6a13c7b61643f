"""Stage 1: what the mask decoder is asked for, and that it heeds which of two things alike is meant."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.models.sam.modeling_sam import SamAttention

from lisa_ros.lisa.segmenter import Segmenter
from lisa_small import model_folder
from lisa_small.network.conv import ConvImageEncoder, PatchConv2d
from lisa_small.training.model import build_sam
from lisa_small.training.precision import half_precision
from lisa_small.training.scenes import Scene
from lisa_small.training.vision import (
    LOOKING_HEADS,
    LOOKING_RATE,
    SMALLEST,
    VisionConfig,
    VisionModel,
    draw_picture,
    draw_prompts,
    look_loss,
    parameter_groups,
    validate,
)

CUPS_AND_A_BOOK = {1: 0, 2: 0, 3: 1}


@pytest.fixture
def drawn():
    areas = np.array([9000, 100, 120, 300])
    return [draw_prompts(CUPS_AND_A_BOOK, areas, 4, 5, random.Random(seed)) for seed in range(200)]


def test_a_place_says_which_single_thing_is_meant(drawn):
    placed = [prompt for prompts in drawn for prompt in prompts if prompt.placed]
    assert all(len(prompt.target_ids) == 1 for prompt in placed)
    assert {prompt.target_ids[0] for prompt in placed} == {1, 2, 3}


def test_without_a_place_all_of_a_class_are_meant(drawn):
    for prompt in (prompt for prompts in drawn for prompt in prompts if not prompt.placed):
        assert sorted(prompt.target_ids) == [i for i, c in CUPS_AND_A_BOOK.items() if c in prompt.classes]


def test_what_is_not_there_and_several_classes_are_asked_for_too(drawn):
    prompts = [prompt for prompts in drawn for prompt in prompts]
    assert any(not prompt.target_ids for prompt in prompts)
    assert any(len(prompt.classes) > 1 for prompt in prompts)


def test_an_empty_picture_is_asked_for_what_is_not_there():
    prompts = draw_prompts({}, np.array([400]), 3, 5, random.Random(0))
    assert len(prompts) == 3 and not any(prompt.target_ids or prompt.placed for prompt in prompts)


def test_what_hardly_shows_is_not_asked_for_but_belongs_to_its_class():
    areas = np.array([9000, 100, SMALLEST - 1, 0])  # a cup, a corner of another, a book that is hidden
    drawn = [draw_prompts(CUPS_AND_A_BOOK, areas, 4, 2, random.Random(seed)) for seed in range(50)]
    prompts = [prompt for prompts in drawn for prompt in prompts if 0 in prompt.classes]
    assert {tuple(prompt.target_ids) for prompt in prompts} == {(1,), (1, 2)}


def test_the_small_decoder_attends_as_wide_as_it_is():
    for layer in build_sam(32, 64, 8, 48).mask_decoder.transformer.layers:
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            assert isinstance(attention, SamAttention) and attention.q_proj.out_features == 32


def test_where_nothing_has_a_place_nothing_is_told():
    looks = [torch.randn(2, 8, 3, 16, requires_grad=True)]
    loss = look_loss(looks, torch.rand(2, 8, 8), torch.tensor([False, False]))
    loss.backward()
    assert float(loss.detach()) == 0.0 and not looks[0].grad.any()


def test_only_told_heads_are_told_and_the_more_the_further_they_are_off():
    looks = [torch.zeros(1, 8, 3, 16)]
    looks[0][:, 0, 2] = 30.0  # it looks at nothing but the prompt, where no mask is
    looks[0].requires_grad_()
    look_loss(looks, torch.zeros(1, 8, 8), torch.tensor([True])).backward()
    gradient = looks[0].grad.abs().sum((2, 3))[0]
    assert gradient[0] > gradient[1] > 0 and not gradient[LOOKING_HEADS:].any()


@pytest.mark.parametrize(("channels", "side"), [(16, 4), (24, 2)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_a_convolution_of_patches_is_the_convolution_in_half_precision_too(channels, side, dtype, error):
    torch.manual_seed(0)
    patches = PatchConv2d(channels, 96, side).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 64, 48).to(memory_format=torch.channels_last)
    right = F.conv2d(x, patches.weight, patches.bias, stride=side)
    assert (patches.to(dtype)(x.to(dtype)) - right).norm() < error * right.norm()


def test_the_packaged_encoder_sees_the_same_in_half_precision():
    segmenter = Segmenter.from_checkpoint(model_folder(), device="cpu", precision="fp32")
    rgb = np.asarray(Image.open(Path(__file__).parents[1] / "golden" / "wide.png").convert("RGB"))
    right = segmenter.embed(rgb)
    with torch.no_grad(), half_precision("bf16"):
        halved = segmenter.embed(rgb)
    assert (halved - right).norm() < 0.1 * right.norm()


def test_what_looks_learns_faster_and_the_prompts_of_sam_stay():
    model = VisionModel(ConvImageEncoder(32), build_sam(32, 64, 8, 48), ["cup"])
    before = model.sam.prompt_encoder.no_mask_embed
    groups = parameter_groups(model, VisionConfig(phases=()))
    assert [len(group["params"]) for group in groups if group["factor"] == LOOKING_RATE] == [4]
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert not before.weight.requires_grad and id(before.weight) not in trained


@pytest.mark.parametrize("augment", [False, True])
def test_pictures_can_be_shown_as_they_are(augment):
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    ids = np.zeros((48, 64), np.uint8)
    ids[8:24, 8:24] = 1
    scene = Scene({"objects": [{"id": 1, "class": "cup"}]}, rgb, ids)
    config = VisionConfig(phases=(), paste=1.0, repaint=1.0, augment=augment)
    for seed in range(5):
        _, square = draw_picture([scene], {"cup": 0}, config, 64, random.Random(seed))
        assert np.array_equal(square.rgb[:48], rgb) == (not augment)
        assert np.array_equal(square.ids[:48], ids) == (not augment)


def test_validation_asks_for_one_of_several_alike_by_its_place():
    ids = np.zeros((64, 64), np.uint8)
    ids[8:24, 8:24], ids[40:56, 40:56] = 1, 2
    cups = [{"id": 1, "class": "cup"}, {"id": 2, "class": "cup"}]
    model = VisionModel(ConvImageEncoder(32), build_sam(32, 64, 8, 48), ["cup"])
    scores = validate(model, [Scene({"objects": cups}, np.zeros((64, 64, 3), np.uint8), ids)], 64, {"cup": 0})
    assert set(scores) == {"gIoU", "one"} and all(0 <= score <= 1 for score in scores.values())
    alone = Scene({"objects": cups[:1]}, np.zeros((64, 64, 3), np.uint8), np.where(ids == 1, ids, 0))
    assert set(validate(model, [alone], 64, {"cup": 0})) == {"gIoU"}


def test_one_of_two_alike_is_learned_by_its_place():
    """Two cups with the same embedding: marked is the one that is at the prompt's place."""
    torch.manual_seed(0)
    model = VisionModel(ConvImageEncoder(32), build_sam(32, 128, 8, 32), ["cup"])
    rng = random.Random(0)
    cup, table = torch.randn(32), torch.randn(32)
    optimizer = torch.optim.AdamW(parameter_groups(model, VisionConfig(phases=())))
    for group in optimizer.param_groups:
        group["lr"] = 1.5e-3 * group["factor"]

    def picture():
        """Embedding (C, 16, 16), the two masks (2, 16, 16) and their middles (2, 2)."""
        left, right = (rng.randrange(0, 4), rng.randrange(0, 12)), (rng.randrange(8, 12), rng.randrange(0, 12))
        masks = torch.zeros(2, 16, 16)
        for mask, (x, y) in zip(masks, (left, right), strict=True):
            mask[y : y + 4, x : x + 4] = 1
        covered = masks.sum(0)
        middles = (torch.tensor([left, right]) + 2.0) / 16
        return cup[:, None, None] * covered + table[:, None, None] * (1 - covered), masks, middles

    def ask(count):
        embeddings, masks, places = (torch.stack(part) for part in zip(*(picture() for _ in range(count)), strict=True))
        prompts = model.prompts(torch.ones(count, 2, 1), places, torch.ones(count, 2))
        logits, looks = model.decode_and_look(embeddings, prompts)
        return logits.flatten(0, 1), F.interpolate(masks.flatten(0, 1)[:, None], scale_factor=4)[:, 0], looks

    for _ in range(100):
        logits, targets, looks = ask(8)
        loss = F.binary_cross_entropy_with_logits(logits, targets)
        loss = loss + look_loss(looks, targets, torch.ones(len(targets), dtype=torch.bool))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        logits, targets, _ = ask(16)
    found, there = logits > 0, targets > 0
    overlap = (found & there).flatten(1).sum(1) / (found | there).flatten(1).sum(1)
    assert float(overlap.mean()) > 0.8
