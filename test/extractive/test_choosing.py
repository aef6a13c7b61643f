"""Engines ``nearest`` and ``llm-seg`` on the demo model: the [SEG] state chooses among proposals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Conversation, Proposals, Regions
from lisa_ros.engine.registry import engine_name
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CheckpointError, CommandError, ConfigError
from lisa_ros.extractive.choosing import Selecting
from lisa_ros.extractive.features import DINO_SIDE, DinoTower
from lisa_ros.extractive.selector import Choice, Selector
from lisa_ros.lisa.preprocess import SAM_MEAN, SAM_STD
from lisa_ros.lisa.segmenter import EncodedImage
from lisa_ros.perception.masks import union_image
from lisa_ros.perception.packed_crops import PackedCrops, packed
from lisa_small import model_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return np.asarray(Image.open(ROOT / "demo" / "scene.jpg").convert("RGB"))


@pytest.fixture(scope="module")
def nearest() -> SupportedEngine:
    return load_engine(device="cpu", options={"family": "nearest"})


@pytest.fixture(scope="module")
def selector_file(tmp_path_factory) -> Path:
    """A selector of the demo model's width, untrained."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("selector") / "selector.safetensors"
    save_file(Selector(96, inner=64, iou_inner=8, embedding_inner=64, features=96).state_dict(), file)
    return file


def llm_seg(selector_file: Path, **options) -> SupportedEngine:
    return load_engine(device="cpu", options={"family": "llm-seg", "selector": str(selector_file), **options})


def parts(engine: SupportedEngine):
    chooser = engine.engine.chooser
    return chooser.selector, chooser.vision


def plane(region, size) -> np.ndarray:
    return union_image([region.mask], size) > 0


def test_the_region_is_a_proposal(nearest, scene) -> None:
    encoded = nearest.encode(scene)
    seen = []
    answer = nearest.ask(encoded, Ask("the screwdriver"), on_event=seen.append, details=True)
    proposals = nearest.proposals(encoded)
    (ids,) = answer.details["proposal_ids"]
    assert answer.regions[0].phrase == proposals.phrases[ids[0]] == "screwdriver"
    expected = union_image([proposals.crops[index] for index in ids], scene.shape[:2]) > 0
    assert (plane(answer.regions[0], scene.shape[:2]) == expected).all()
    assert [event.regions for event in seen if isinstance(event, Regions)] == [tuple(answer.regions)]
    begin, end = answer.regions[0].span
    assert answer.text[begin:end].strip() == "[SEG]"
    assert 0 < answer.regions[0].score <= 1


def test_the_choice_is_as_good_as_the_decoder_on_the_demo_scene(nearest, scene) -> None:
    lisa = load_engine(device="cpu")
    for command in ("the screwdriver", "the thing to drink from"):
        answers = [engine.ask(engine.encode(scene), Ask(command)) for engine in (lisa, nearest)]
        masks = [plane(answer.regions[0], scene.shape[:2]) for answer in answers]
        assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.7, command


def test_what_is_not_there_has_no_region(nearest, scene) -> None:
    encoded = nearest.encode(scene)
    assert not nearest.ask(encoded, Ask("the umbrella")).found
    assert nearest.ask(encoded, Ask(targets=["screwdriver", "umbrella"])).absent == ("umbrella",)


def test_a_conversation_goes_on(nearest, scene) -> None:
    encoded, history = nearest.encode(scene), Conversation()
    nearest.ask(encoded, Ask("the screwdriver", history=history))
    nearest.ask(encoded, Ask("and the cup", history=history))
    assert len(history.turns) == 2


def test_given_masks_replace_the_models_own_for_one_command(nearest, scene) -> None:
    """A detector's boxes, without names: the model's own map says what they show."""
    encoded = nearest.encode(scene)
    own = nearest.proposals(encoded)
    masks = np.zeros((len(own) + 1, *scene.shape[:2]), bool)  # the last one is empty
    for mask, crop in zip(masks, own.crops, strict=False):
        mask[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = True
    answer = nearest.ask(encoded, Ask("the screwdriver", proposals=Proposals(masks=masks)), details=True)
    (ids,) = answer.details["proposal_ids"]
    assert own.phrases[ids[0]] == "screwdriver"
    assert (plane(answer.regions[0], scene.shape[:2]) == masks[ids].any(0)).all()
    again = nearest.ask(encoded, Ask("the screwdriver"), details=True)
    assert nearest.proposals(encoded) is own
    assert again.regions[0].mask.area != answer.regions[0].mask.area


def test_names_of_given_masks_are_believed(nearest, scene) -> None:
    height, width = scene.shape[:2]
    masks = np.zeros((2, height, width), bool)
    masks[0, 10:60, 10:60] = masks[1, 100:160, 200:260] = True
    given = Proposals(masks=masks, phrases=["cup", "screwdriver"])
    answer = nearest.ask(nearest.encode(scene), Ask("the screwdriver", proposals=given), details=True)
    assert answer.details["proposal_ids"] == [[1]]
    assert answer.regions[0].phrase == "screwdriver"


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_any_number_of_proposals(nearest, scene, count) -> None:
    """Overlapping and nested ones too."""
    rng = np.random.default_rng(0)
    crops = []
    for x, y, side in zip(
        rng.integers(0, 500, count), rng.integers(0, 380, count), rng.integers(1, 90, count), strict=True
    ):
        mask = np.zeros(scene.shape[:2], bool)
        mask[y : y + side, x : x + side] = True
        crops += PackedCrops([packed(Proposals(masks=mask[None]))[0]])
    given = Proposals(crops=PackedCrops(crops))
    answer = nearest.ask(nearest.encode(scene), Ask("the screwdriver", proposals=given))
    assert answer.found == (count > 0)


@pytest.mark.parametrize(
    ("proposals", "message"),
    [
        (Proposals(masks=np.zeros((2, 5, 5), bool)), "the image needs"),
        (Proposals(embeddings=np.zeros((2, 96), np.float32)), "2 proposals without masks"),
        (Proposals(masks=np.zeros((480, 640), bool)), "the image needs"),
        (Proposals(crops=packed(Proposals(masks=np.ones((1, 481, 640), bool)))), "reaches to x 640, y 481"),
    ],
)
def test_proposals_that_cannot_be_used(nearest, scene, proposals, message) -> None:
    assert scene.shape[:2] == (480, 640)
    with pytest.raises(CommandError, match=message):
        nearest.ask(nearest.encode(scene), Ask("the cup", proposals=proposals))


def test_llm_seg_end_to_end_on_the_demo_models_proposals(scene, selector_file) -> None:
    """The selector is not trained: any choice is right, as long as it is the selector's."""
    engine = llm_seg(selector_file)
    encoded = engine.encode(scene)
    for choice, threshold in (("similarity", 0.5), ("threshold", 0.0), ("both", 0.5), ("threshold", 1.0)):
        engine.engine.chooser = Selecting(*parts(engine), Choice(choice, threshold))
        answer = engine.ask(encoded, Ask("the screwdriver"), details=True)
        count = len(engine.proposals(encoded))
        (ids,) = answer.details["proposal_ids"]
        assert answer.found == (threshold < 1)
        if not answer.found:
            assert (ids, answer.regions, "[SEG]" in answer.text) == ([], (), True)
            continue
        assert len(ids) == count if choice == "threshold" else 1 <= len(ids) <= count
        forced = engine.teacher_forced(encoded, [Ask("the screwdriver")], [answer.text])
        assert (forced == plane(answer.regions[0], scene.shape[:2])).all()


def test_a_folder_with_a_selector_is_llm_segs(tmp_path, selector_file) -> None:
    shutil.copy(selector_file, tmp_path / "selector.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    assert engine_name(tmp_path) == "llm-seg"
    assert engine_name(model_folder()) == "lisa_small"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"family": "nearest", "order": "size"}, ConfigError, "the order of proposals is 'size'"),
        ({"family": "nearest", "proposer": "sma"}, ConfigError, "there is no proposer 'sma'"),
        ({"family": "nearest", "proposer_options": 3}, ConfigError, "option proposer_options is 3"),
        ({"family": "nearest", "choice": "both"}, ConfigError, "has no option 'choice'"),
        ({"family": "llm-seg", "choice": "best"}, ConfigError, "option choice is 'best'"),
        ({"family": "llm-seg"}, CheckpointError, "there is no selector of LLM-Seg"),
    ],
)
def test_options_that_cannot_be_used(options, error, message) -> None:
    with pytest.raises(error, match=message):
        load_engine(device="cpu", options=options)


def test_a_selector_of_another_model_is_an_error(tmp_path) -> None:
    for name, sizes, message in (
        ("wide", {"width": 32, "features": 96}, "compares 32 numbers"),
        ("dino", {"width": 96, "features": 1024}, "reads features of 1024 channels"),
    ):
        file = tmp_path / f"{name}.safetensors"
        save_file(Selector(**sizes, inner=8, iou_inner=8, embedding_inner=8).state_dict(), file)
        with pytest.raises(CheckpointError, match=message):
            llm_seg(file)


def test_dinov2_reads_the_padded_square(scene, tmp_path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    tower = DinoTower.from_folder(tmp_path, torch.device("cpu"), torch.float32)
    small = scene[:75, :100]
    patches = tower.patches(EncodedImage(small, None, None, 0.0))
    assert patches.shape == ((DINO_SIDE // 14) ** 2, tower.channels)
    resized = np.asarray(Image.fromarray(small).resize((896, 672), Image.Resampling.BILINEAR), np.float32)
    square = np.zeros((896, 896, 3), np.float32)
    square[:672] = (resized - np.array(SAM_MEAN, np.float32)) / np.array(SAM_STD, np.float32)
    with torch.inference_mode():
        states = model(torch.from_numpy(square.transpose(2, 0, 1))[None]).last_hidden_state
    torch.testing.assert_close(patches, states[0, 1:], atol=1e-4, rtol=0)
    with pytest.raises(CheckpointError, match="there is no DINOv2"):
        DinoTower.from_folder(tmp_path / "nothing", torch.device("cpu"), torch.float32)
