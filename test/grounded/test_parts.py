"""Cutters, noun phrases and concepts over tiny models of the real classes; model folders that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Stage
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, ConfigError
from lisa_ros.grounded.cutters.sam import HALF, IMAGENET_MEAN, IMAGENET_STD, Input, SamCutter
from lisa_ros.grounded.finds import Find
from lisa_ros.grounded.locators.phrases import told_once
from lisa_ros.grounded.recipe import Part, read_options, read_recipe
from lisa_ros.grounded.weights.load import Place

RGB = NDArray[np.uint8]
CPU = Place.pick("cpu", "fp32")
KINDS = {"sam1": "sam", "sam2": "sam2", "sam3_tracker": "sam3_tracker"}
BOX = (64.0, 48.0, 320.0, 240.0)


@pytest.fixture(scope="module", params=KINDS)
def cutter(request: pytest.FixtureRequest, tiny) -> SamCutter:
    return SamCutter.load(Part(tiny(request.param), KINDS[request.param]), CPU)


def photo(height: int, width: int) -> RGB:
    """uint8 (H, W, 3): smooth colours with some noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 13, 3), dtype=np.uint8)).resize((width, height))
    return np.clip(np.asarray(coarse, np.int16) + rng.integers(-9, 9, (height, width, 3)), 0, 255).astype(np.uint8)


# --- cutters


@pytest.mark.parametrize(
    "find",
    [
        Find("cup", BOX),
        Find("cup", None, ((100.0, 100.0),), (1,)),
        Find("cup", None, ((100.0, 100.0), (600.0, 400.0)), (1, 0)),
        Find("cup", BOX, ((100.0, 100.0),), (1,)),
    ],
    ids=["box", "point", "points", "box and point"],
)
@pytest.mark.parametrize("multimask", [False, True])
def test_a_find_is_cut_to_the_size_of_the_frame(cutter: SamCutter, find: Find, multimask: bool, rgb: RGB) -> None:
    cut = cutter.cut(cutter.embed(rgb), [find], multimask)[0]
    assert cut.logits.shape == rgb.shape[:2]
    assert cut.logits.dtype == np.float32
    assert np.isfinite(cut.logits).all()
    assert 0 <= cut.iou <= 1
    assert 0 <= cut.object_probability <= 1


def test_finds_together_are_cut_as_each_alone(cutter: SamCutter, rgb: RGB) -> None:
    embedding = cutter.embed(rgb)
    finds = [Find("a", BOX), Find("b", (400.0, 300.0, 500.0, 400.0)), Find("c", (0.0, 0.0, 640.0, 480.0))]
    together = cutter.cut(embedding, finds)
    for find, cut in zip(finds, together, strict=True):
        np.testing.assert_allclose(cutter.cut(embedding, [find])[0].logits, cut.logits, atol=1e-4)
    assert cutter.cut(embedding, []) == []


def test_another_box_gives_another_mask(cutter: SamCutter, rgb: RGB) -> None:
    embedding = cutter.embed(rgb)
    first, second = cutter.cut(embedding, [Find("a", BOX), Find("b", (400.0, 300.0, 500.0, 400.0))])
    assert np.abs(first.logits - second.logits).max() > 1e-4


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (777, 333), (30, 900)])
def test_sam1_is_cut_as_by_its_own_processor(size: tuple[int, int], tiny) -> None:
    cutter = SamCutter.load(Part(tiny("sam1"), "sam"), CPU)
    rgb = photo(*size)
    box = [size[1] * 0.2, size[0] * 0.3, size[1] * 0.7, size[0] * 0.8]
    images = transformers.SamImageProcessor(size={"longest_edge": 256}, pad_size={"height": 256, "width": 256})
    processor = transformers.SamProcessor(images)
    inputs = processor(images=[rgb], input_boxes=[[box]], return_tensors="pt")
    pixels = inputs["pixel_values"][0].numpy()
    std = np.array(IMAGENET_STD)[:, None, None]
    assert np.abs((cutter.input.pixels(rgb) - pixels) * std * 255).max() <= 1.001  # grey levels
    with torch.inference_mode():
        outputs = cutter.model(
            pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float(), multimask_output=False
        )
        masks = images.post_process_masks(
            outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"], binarize=False
        )
    theirs = masks[0][0, 0].numpy()
    ours = cutter.cut(cutter.embed(rgb), [Find("a", tuple(box))])[0].logits
    assert np.abs(theirs - ours).max() < 0.05 * np.abs(theirs).max() + 0.01


@pytest.mark.parametrize("size", [(480, 640), (720, 1280), (1080, 1920), (240, 424)])
@pytest.mark.parametrize(("mean", "std"), [(IMAGENET_MEAN, IMAGENET_STD), (HALF, HALF)], ids=["sam2", "sam3"])
def test_pixels_are_those_of_an_antialiased_resize(size: tuple[int, int], mean, std) -> None:
    """SAM 2's and SAM 3's processors resize so, with torchvision, which is not needed here."""
    rgb, side = photo(*size), 256
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()
    resized = F.interpolate(tensor, (side, side), mode="bilinear", antialias=True, align_corners=False).round()[0]
    expected = (resized.numpy() / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    levels = np.abs(Input(side, mean, std).pixels(rgb) - expected) * np.array(std)[:, None, None] * 255
    assert levels.max() < 1.001
    assert (levels > 0.5).mean() < 0.2  # of a noisy picture


@pytest.mark.parametrize(("kind", "prefix"), [("sam2_video", ""), ("sam3_video", "tracker_model.")])
def test_a_checkpoint_of_videos_serves_pictures_with_its_own_weights(kind: str, prefix: str, tiny, rgb: RGB) -> None:
    """The released SAM 2.1 and SAM 3 are of these types."""
    folder = tiny(kind)
    cutter = SamCutter.load(Part(folder, kind), CPU)
    stored = load_file(folder / "model.safetensors")
    for name in ("mask_decoder.iou_token.weight", "prompt_encoder.no_mask_embed.weight"):
        assert torch.equal(cutter.model.state_dict()[name], stored[prefix + name])
    assert cutter.cut(cutter.embed(rgb), [Find("a", BOX)])[0].logits.shape == (480, 640)


def test_one_folder_of_sam3_finds_concepts_and_cuts_boxes(tiny, tmp_path: Path, rgb: RGB) -> None:
    for role in ("locator", "cutter"):
        (tmp_path / role).symlink_to(tiny("sam3_video"))
    folder = tiny_models.recipe(tmp_path, {"model": "locator"}, {"model": "cutter"})
    engine = load_engine(folder, device="cpu", options={"box_threshold": 0.01, "max_objects": 2})
    encoded = engine.encode(rgb)
    assert len(engine.ask(encoded, Ask("red cup")).regions) == 2
    assert engine.ask(encoded, Ask(box=(64, 48, 256, 192)), details=True) is not None


def test_a_mask_where_the_cutter_sees_no_object_is_dropped(tiny, endpoint_engine: Path, rgb: RGB) -> None:
    from servers import Stub, answering

    found = '{"present": true, "objects": [{"label": "cup", "bbox_2d": [100, 100, 500, 500]}]}'
    with Stub(answering(found)) as stub:
        engine = load_engine(endpoint_engine, device="cpu", options={"endpoint": stub.url, "check": "off"})
        encoded = engine.encode(rgb)
        assert engine.ask(encoded, Ask("the cup")).found
        with torch.no_grad():
            engine.engine.cutter.model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-4.0)
        answer = engine.ask(encoded, Ask("the cup"))
    assert not answer.found
    assert answer.absent == ("the cup",)


# --- noun phrases and concepts


@pytest.fixture(scope="module", params=["grounding_dino", "mm_grounding_dino", "clipseg", "sam3"])
def phrases(request: pytest.FixtureRequest, tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "locator").symlink_to(tiny(request.param))
    with_cutter = "dino" in request.param
    if with_cutter:
        (folder / "cutter").symlink_to(tiny("sam2"))
    return tiny_models.recipe(folder, {"model": "locator"}, {"model": "cutter"} if with_cutter else None)


def load(folder: Path, **options: Any) -> SupportedEngine:
    return load_engine(folder, device="cpu", options={"box_threshold": 0.01, **options})


def test_a_phrase_gives_masks(phrases: Path, rgb: RGB) -> None:
    answer = (engine := load(phrases, max_objects=3)).ask(engine.encode(rgb), Ask("The red cup?"), details=True)
    assert 1 <= len(answer.regions) <= 3
    assert answer.details["mask_logits"].shape == (len(answer.regions), 480, 640)
    for region in answer.regions:
        assert region.phrase in "the red cup"
        assert answer.text[slice(*region.span)] == region.phrase
        assert 0 < region.score < 1


def test_a_phrase_that_is_not_there_is_absent(phrases: Path, rgb: RGB) -> None:
    engine = load(phrases, box_threshold=0.999)
    answer = engine.ask(engine.encode(rgb), Ask("a fork"))
    assert (answer.found, answer.absent) == (False, ("a fork",))
    assert "nothing like that" in answer.text


def test_targets_are_asked_each_alone(phrases: Path, rgb: RGB) -> None:
    engine = load(phrases, max_objects=1)
    answer = engine.ask(engine.encode(rgb), Ask(targets=("cup", "fork")))
    assert [region.phrase for region in answer.regions] == ["cup", "fork"]


def test_a_phrase_without_a_noun_or_too_long_is_a_command_error(phrases: Path, rgb: RGB) -> None:
    engine = load(phrases)
    encoded = engine.encode(rgb)
    with pytest.raises(CommandError, match="name an object"):
        engine.ask(encoded, Ask("..."))
    with pytest.raises(CommandError, match="name the object alone"):
        engine.ask(encoded, Ask("red cup " * 60))
    assert engine.ask(encoded, Ask("<s> [SEP] <|endoftext|> cup")) is not None


def test_no_language_model_writes(phrases: Path, rgb: RGB) -> None:
    engine, events = load(phrases), []
    engine.ask(engine.encode(rgb), Ask("cup"), on_event=events.append)
    assert [event.name for event in events if isinstance(event, Stage)] == ["reading"]


def test_a_cancel_before_the_model_runs_is_heeded(phrases: Path, rgb: RGB) -> None:
    engine = load(phrases)
    with pytest.raises(Cancelled):
        engine.ask(engine.encode(rgb), Ask("cup"), should_stop=lambda: True)


def test_an_option_of_language_models_does_not_matter_and_history_is_not_claimed(phrases: Path) -> None:
    assert not load(phrases, check="absence").info.capabilities & {"history", "explain"}


def test_the_better_of_two_boxes_on_one_object_is_kept() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9.9], [20, 20, 30, 30], [0, 0, 5, 5]], np.float64)
    assert told_once(boxes, [0.5, 0.9, 0.7, 0.1], 8) == [1, 2, 3]
    assert told_once(boxes, [0.5, 0.9, 0.7, 0.1], 2) == [1, 2]
    assert told_once(np.zeros((0, 4)), [], 8) == []


# --- folders


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    """A complete engine of Grounding DINO and SAM 2.1, to be damaged."""
    shutil.copytree(tiny("grounding_dino"), tmp_path / "engine" / "locator")
    shutil.copytree(tiny("sam2"), tmp_path / "engine" / "cutter")
    return tiny_models.recipe(tmp_path / "engine", {"model": "locator"}, {"model": "cutter"})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"engine": "grounded"}, 'names no "locator"'),
        ({"engine": "grounded", "locator": {"model": "locator"}}, 'names no "cutter"'),
        ({"engine": "grounded", "locator": {"model": "locator"}, "cutter": {"model": "sam"}}, "is missing"),
        ({"engine": "grounded", "locator": {"model": "../locator"}, "cutter": {"model": "cutter"}}, "beside it"),
        ({"engine": "grounded", "locator": {"model": "/etc"}, "cutter": {"model": "cutter"}}, "beside it"),
        ({"engine": "grounded", "locator": {"model": "cutter"}, "cutter": {"model": "cutter"}}, "no locator"),
        ({"engine": "grounded", "locator": {"model": "locator"}, "cutter": {"model": "locator"}}, "no cutter"),
        ({"engine": "grounded", "locator": "locator", "cutter": {"model": "cutter"}}, "must be an object"),
        ({"engine": "grounded", "locator": {"kind": "nouns"}, "cutter": {"model": "cutter"}}, 'write "endpoint"'),
        ({"engine": "grounded", "locator": {"kind": "endpoint", "url": "http://x"}}, 'has "url"'),
        ({"engine": "grounded", "locator": {"model": "locator", "dialect": "molmo"}}, "has no dialect"),
        ({"engine": "grounded", "locator": {"model": "locator"}, "cutter": None, "code": "x"}, '"code" is not known'),
    ],
)
def test_a_recipe_that_cannot_be_used_says_why(content: dict[str, Any], problem: str, folder: Path) -> None:
    (folder / "engine.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=problem):
        load_engine(folder, device="cpu")


def test_a_recipe_that_is_not_json_or_of_another_engine_is_an_error(folder: Path) -> None:
    (folder / "engine.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable JSON"):
        load_engine(folder, device="cpu")
    (folder / "engine.json").write_text('{"engine": "wonder"}')
    with pytest.raises(ConfigError, match="'wonder', which is not installed"):
        load_engine(folder, device="cpu")


def test_a_sam_of_another_size_than_said_is_an_error(folder: Path) -> None:
    tiny_models.edit_config(
        folder / "cutter", mask_decoder_config=tiny_models.decoder_config() | {"iou_head_hidden_dim": 64}
    )
    with pytest.raises(CheckpointError, match=r"cutter.*(mismatch|another shape|size)"):
        load_engine(folder, device="cpu")


def test_a_part_without_weights_or_with_a_damaged_file_is_an_error(folder: Path) -> None:
    weights = folder / "cutter" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cutter"):
        load_engine(folder, device="cpu")
    weights.unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_engine(folder, device="cpu")


def test_a_pickle_is_not_opened(folder: Path) -> None:
    (folder / "cutter" / "model.safetensors").rename(folder / "cutter" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds pickles"):
        load_engine(folder, device="cpu")


def test_tensors_that_are_missing_are_named(folder: Path) -> None:
    weights = folder / "cutter" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["mask_decoder.iou_token.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"mask_decoder\.iou_token\.weight"):
        load_engine(folder, device="cpu")


def test_quantised_precisions_are_refused_with_a_remedy(folder: Path) -> None:
    with pytest.raises(ConfigError, match="use auto, bf16, fp16 or fp32"):
        load_engine(folder, device="cpu", precision="nf4")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_answers(precision: str, folder: Path, rgb: RGB) -> None:
    engine = load_engine(folder, device="cpu", precision=precision, options={"box_threshold": 0.01})
    answer = engine.ask(engine.encode(rgb), Ask("cup"))
    assert engine.info.precision == precision
    assert all(np.isfinite(region.score) for region in answer.regions)


def test_options_have_defaults_and_yaml_words() -> None:
    assert read_options({"structured": False, "timeout_s": 5, "check": False}).structured == "off"
    assert read_options({}).check == "absence"
    assert read_recipe  # imported without torch: the registry and the command line read recipes
