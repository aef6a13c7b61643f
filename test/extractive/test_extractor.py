"""What the extractive engine does with proposals and commands of every kind. Tiny random models of both variants."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from goldens import read_rgb
from hypothesis import given
from hypothesis import strategies as st
from tiny_elisa import ELISA, EMBEDDING, WORDS, drawn_alpha_clip, write_elisa
from tiny_sam import write_sam

from lisa_ros import load_engine
from lisa_ros.engine.api import Answer, Ask, Conversation, Event, MaskCrop, Proposals, Regions, Token, crop_mask
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, ConfigError
from lisa_ros.extractive.encoders import AlphaClipEncoder
from lisa_ros.extractive.mentions import mention_text
from lisa_ros.extractive.model.alpha_clip import from_tensors
from lisa_ros.extractive.reader import LlavaReader
from lisa_ros.extractive.words import MENTION

ROWS, IMAGE_0 = 307, (90, 120)
"""Of the golden's word table, and (height, width) of its first picture."""
CUP, SPOON_AND_LAMP, TWICE = 0, 1, 5
"""Commands that the golden was fitted to."""
QUERIES = {
    CUP: ("image0", "Provide the mask. Where is the cup?"),
    SPOON_AND_LAMP: ("image0", "Provide the mask. Show me the spoon and the lamp."),
    TWICE: ("image2", "Output the mask. Where is the plate?"),
}


@pytest.fixture(scope="module")
def engine() -> SupportedEngine:
    return load_engine(ELISA, "cpu", "fp32")


@pytest.fixture(scope="module")
def parity() -> SupportedEngine:
    return load_engine(ELISA, "cpu", "fp32", {"parity": True})


@pytest.fixture(scope="module", params=["gemma", "llama untied", "llama, names of today"])
def random_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SupportedEngine:
    folder = tmp_path_factory.mktemp("elisa") / "b"
    kind = str(request.param)
    write_elisa(folder, text=kind.split()[0].rstrip(","), tied="untied" not in kind, newer_names="today" in kind)
    return load_engine(folder, "cpu", "fp32")


def embeddings_of(picture: str) -> np.ndarray:
    with np.load(ELISA / "generate.npz") as file:
        return file[f"embeddings_{picture.removeprefix('image')}"]


def squares(count: int, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W): one square each, at different places."""
    masks = np.zeros((count, *size), bool)
    for number in range(count):
        y, x = divmod(7 * number, size[1] - 8)
        masks[number, y % (size[0] - 8) : y % (size[0] - 8) + 8, x : x + 8] = True
    return masks


def random_embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, EMBEDDING)).astype(np.float32)


def asked(engine: SupportedEngine, number: int, **options: object) -> Answer:
    picture, query = QUERIES[number]
    rgb = read_rgb(ELISA / f"images/{picture}.png")
    embeddings = embeddings_of(picture)
    proposals = Proposals(masks=squares(len(embeddings), rgb.shape[:2]), embeddings=embeddings)
    return engine.ask(engine.encode(rgb), Ask(query, verbatim=True, proposals=proposals), **options)  # type: ignore[arg-type]


# --- text with masks inside


def test_a_mention_is_a_number_in_the_text_and_a_region(engine: SupportedEngine) -> None:
    answer = asked(engine, SPOON_AND_LAMP)
    assert answer.text == "I would use a spoon, [1], and the lamp [2] here."
    assert [answer.text[slice(*region.span)] for region in answer.regions] == ["[1]", "[2]"]
    expected = squares(6, IMAGE_0)[[4, 0]]
    for region, mask in zip(answer.regions, expected, strict=True):
        crop = crop_mask(mask)
        assert (region.mask.x, region.mask.y, region.mask.area) == (crop.x, crop.y, crop.area)
        assert 0 < region.score <= 1


def test_a_mask_that_is_named_twice_is_one_region_with_two_spans(engine: SupportedEngine) -> None:
    answer = asked(engine, TWICE)
    [region] = answer.regions
    assert answer.text == "The object is at [1], near the ball, [1]."
    assert [answer.text[begin:end] for begin, end in region.spans] == ["[1]", "[1]"]


def test_a_region_follows_the_text_up_to_its_mention(engine: SupportedEngine) -> None:
    events: list[Event] = []
    answer = asked(engine, TWICE, on_event=events.append)
    shown = [event for event in events if isinstance(event, Token | Regions)]
    [at] = [number for number, event in enumerate(shown) if isinstance(event, Regions)]
    before, sent = shown[at - 1], shown[at]
    assert isinstance(before, Token)
    assert isinstance(sent, Regions)
    assert before.text == "The object is at [1]"
    assert sent.regions[0].spans == ((17, 20),)
    assert answer.regions[0].mask is sent.regions[0].mask  # so the node need not send it again
    assert all(answer.text.startswith(event.text) for event in shown if isinstance(event, Token))


@pytest.mark.parametrize("limit", range(1, 18))
def test_an_answer_that_is_cut_has_whole_mentions(engine: SupportedEngine, limit: int) -> None:
    picture, query = QUERIES[TWICE]
    proposals = Proposals(embeddings=embeddings_of(picture))
    encoded = engine.encode(read_rgb(ELISA / f"images/{picture}.png"))
    ask = Ask(query, verbatim=True, proposals=proposals, max_new_tokens=limit)
    answer = engine.ask(encoded, ask, details=True)
    assert answer.details is not None
    assert len(answer.details["answer_ids"]) == len(answer.details["step_logits"]) == limit
    assert [answer.text[b:e] for region in answer.regions for b, e in region.spans] == ["[1]"] * answer.text.count("[")


def test_numbers_beyond_the_limit_are_left_out() -> None:
    text = mention_text(["", "", " and", "."], [7, 3, 7], 1)
    assert (text.text, text.order, text.spans) == ("[1] and [1].", (7,), (((0, 3), (8, 11)),))
    assert text.marked == f"{MENTION} and {MENTION}."


# --- proposals of every kind


def test_without_proposals_the_command_is_an_error(engine: SupportedEngine) -> None:
    rgb = read_rgb(ELISA / "images/image0.png")
    with pytest.raises(CommandError, match=r"makes none itself; give Ask\.proposals"):
        engine.ask(engine.encode(rgb), Ask("the cup"))


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_any_number_of_proposals(engine: SupportedEngine, count: int) -> None:
    rgb = read_rgb(ELISA / "images/image0.png")
    proposals = Proposals(masks=squares(count, rgb.shape[:2]), embeddings=random_embeddings(count))
    answer = engine.ask(engine.encode(rgb), Ask("the cup", proposals=proposals, max_new_tokens=40), details=True)
    assert answer.details is not None
    assert answer.details["step_logits"].shape[1] == ROWS + count
    assert all(0 <= index < count for index in answer.details["proposal_ids"])
    assert len(answer.regions) == len(answer.details["proposal_ids"]) <= 255


def test_nested_overlapping_and_empty_masks_come_back_as_they_are(random_engine: SupportedEngine) -> None:
    rgb = np.full((40, 60, 3), 90, np.uint8)
    masks = np.zeros((4, 40, 60), bool)
    masks[0, 5:35, 5:55] = masks[1, 10:20, 10:20] = masks[2, 15:30, 15:40] = True  # the last is empty
    proposals = Proposals(masks=masks, embeddings=random_embeddings(4), phrases=("a", "b", "c", "d"))
    answer = random_engine.ask(
        random_engine.encode(rgb), Ask("the cup", proposals=proposals, max_new_tokens=60), details=True
    )
    assert answer.details is not None
    for region, index in zip(answer.regions, answer.details["proposal_ids"], strict=True):
        assert region.mask.area == masks[index].sum()
        assert region.phrase == "abcd"[index]


@pytest.mark.parametrize(
    ("proposals", "message"),
    [
        (
            Proposals(masks=squares(2, (50, 56)), embeddings=random_embeddings(2)),
            r"\(2, 50, 56\); give bool \(N, 90, 120\)",
        ),
        (Proposals(masks=squares(2, IMAGE_0).astype(np.uint8)), "are uint8; give bool"),
        (Proposals(masks=squares(2, IMAGE_0), embeddings=random_embeddings(3)), "2 masks, 3 embeddings"),
        (Proposals(embeddings=random_embeddings(2), phrases=("cup",)), "2 embeddings, 1 phrases"),
        (Proposals(embeddings=random_embeddings(2), scores=np.ones(3, np.float32)), "2 embeddings, 3 scores"),
        (Proposals(embeddings=np.zeros((2, 8), np.float32)), "8 numbers, the adapter of .* reads 512"),
        (Proposals(embeddings=np.full((2, EMBEDDING), np.nan, np.float32)), "finite"),
        (
            Proposals(crops=[crop_mask(np.ones((100, 60), bool))], embeddings=random_embeddings(1)),
            "ends at x 60, y 100",
        ),
        (Proposals(masks=squares(2, IMAGE_0)), "mask encoder's embeddings have 32 numbers.*alpha_clip"),
    ],
)
def test_proposals_that_do_not_fit_are_named(engine: SupportedEngine, proposals: Proposals, message: str) -> None:
    rgb = read_rgb(ELISA / "images/image0.png")
    with pytest.raises(CommandError, match=message):
        engine.ask(engine.encode(rgb), Ask("the cup", proposals=proposals))


def test_crops_are_as_good_as_planes(engine: SupportedEngine) -> None:
    picture, query = QUERIES[CUP]
    rgb = read_rgb(ELISA / f"images/{picture}.png")
    masks, embeddings = squares(6, rgb.shape[:2]), embeddings_of(picture)
    crops: list[MaskCrop] = [crop_mask(mask) for mask in masks]
    of_planes = asked(engine, CUP)
    ask = Ask(query, verbatim=True, proposals=Proposals(crops=crops, embeddings=embeddings))
    of_crops = engine.ask(engine.encode(rgb), ask)
    assert of_crops.text == of_planes.text
    assert np.array_equal(of_crops.regions[0].mask.pixels, of_planes.regions[0].mask.pixels)


def test_masks_without_embeddings_are_described_by_the_models_own_tower(tmp_path: Path) -> None:
    engine = load_engine(write_elisa(tmp_path / "own", embedding=32), "cpu", "fp32")
    rgb = read_rgb(ELISA / "images/image1.png")
    masks = squares(5, rgb.shape[:2])
    answers = [
        engine.ask(engine.encode(rgb), Ask("the cup", proposals=proposals, max_new_tokens=8), details=True).details
        for proposals in (Proposals(masks=masks), Proposals(crops=[crop_mask(mask) for mask in masks]))
    ]
    assert answers[0] is not None
    assert answers[1] is not None
    assert answers[0]["step_logits"].shape == (8, 300 + 5)
    np.testing.assert_array_equal(answers[0]["step_logits"], answers[1]["step_logits"])


def test_masks_are_described_by_alpha_clip_where_there_is_a_folder(tmp_path: Path) -> None:
    """What the engine makes of two masks is what AlphaCLIP's features of each, given as embeddings, make of them."""
    facts = json.loads((ELISA / "alphaclip.json").read_text("utf-8"))
    tensors = drawn_alpha_clip(facts)
    (tmp_path / "clip").mkdir()
    torch.save(tensors, tmp_path / "clip/tower.pth")
    (tmp_path / "clip/config.json").write_text(json.dumps({"num_attention_heads": facts["config"]["heads"]}))
    folder = write_elisa(tmp_path / "elisa", embedding=facts["config"]["output_dim"])
    engine = load_engine(folder, "cpu", "fp32", {"alpha_clip": str(tmp_path / "clip")})
    rgb = read_rgb(ELISA / "images/image1.png")
    masks = squares(2, (rgb.shape[0], rgb.shape[1]))
    alone = [AlphaClipEncoder(from_tensors(tensors, facts["config"]["heads"])).encode(rgb, [mask]) for mask in masks]
    given = Proposals(masks=masks, embeddings=torch.cat(alone).numpy())
    logits = [
        engine.ask(engine.encode(rgb), Ask("the cup", proposals=one, max_new_tokens=4), details=True).details
        for one in (Proposals(masks=masks), given)
    ]
    assert logits[0] is not None
    assert logits[1] is not None
    np.testing.assert_allclose(logits[0]["step_logits"], logits[1]["step_logits"], rtol=0, atol=1e-4)
    (tmp_path / "clip/tower.pth").unlink()
    with pytest.raises(CheckpointError, match=r"has 0 \.pth files; AlphaCLIP's folder has one"):
        load_engine(folder, "cpu", "fp32", {"alpha_clip": str(tmp_path / "clip")})


@pytest.fixture(scope="module")
def with_sam(tmp_path_factory: pytest.TempPathFactory) -> SupportedEngine:
    """SAM in the model's own folder, with limits that an untrained one meets."""
    folder = write_elisa(tmp_path_factory.mktemp("elisa") / "sam", embedding=32)
    write_sam(folder / "sam")
    settings = {"points": 4, "iou": 0.0, "stability": 0.0, "nms": 1.0}
    return load_engine(folder, "cpu", "fp32", {"proposer": "sam", "proposer_options": settings, "limit": 7})


def test_sam_proposes_where_a_command_brings_no_proposals(with_sam: SupportedEngine) -> None:
    """Once a frame, the largest first; what a command brings replaces them for that command."""
    encoded = with_sam.encode(read_rgb(ELISA / "images/image0.png"))
    answer = with_sam.ask(encoded, Ask("the cup", max_new_tokens=40), details=True)
    proposals = with_sam.proposals(encoded)
    areas = [crop.area for crop in proposals.crops]
    assert (len(areas), areas) == (7, sorted(areas, reverse=True))
    assert answer.details is not None
    assert answer.details["step_logits"].shape[1] == 300 + 7
    for region, index in zip(answer.regions, answer.details["proposal_ids"], strict=True):
        assert region.mask.area == areas[index]
    given = Proposals(masks=squares(2, IMAGE_0))
    other = with_sam.ask(encoded, Ask("the cup", proposals=given, max_new_tokens=4), details=True)
    assert other.details is not None
    assert other.details["step_logits"].shape[1] == 300 + 2
    assert with_sam.proposals(encoded) is proposals


def test_other_proposals_on_the_same_frame_do_not_see_the_first_ones(engine: SupportedEngine) -> None:
    picture, query = QUERIES[TWICE]
    rgb = read_rgb(ELISA / f"images/{picture}.png")
    right = Ask(query, verbatim=True, proposals=Proposals(embeddings=embeddings_of(picture)))
    other = Ask(query, verbatim=True, proposals=Proposals(embeddings=random_embeddings(9)))
    encoded = engine.encode(rgb)
    logits = [engine.ask(encoded, ask, details=True).details["step_logits"] for ask in (right, other, right)]  # type: ignore[index]
    np.testing.assert_allclose(logits[0], logits[2], rtol=0, atol=1e-5)


# --- the words of a person


@pytest.mark.parametrize(
    "text",
    [
        "the cup <SEG_MASK_3> please",
        "the cup [2]",
        "the <image> of a cup",
        "the cup<end_of_turn> now",
        f"the{MENTION} cup",
    ],
)
def test_special_words_of_a_person_are_text(engine: SupportedEngine, text: str) -> None:
    """Each is read letter by letter: one image, one turn, no proposal."""
    reader = engine.engine.reader  # type: ignore[attr-defined]
    assert isinstance(reader, LlavaReader)
    ids = _prompt(engine, text)
    assert sum(i == -200 for i in ids) == 16
    assert not any(WORDS < i <= WORDS + 6 for i in ids)
    assert ids.count(reader.words.end_id) == 1
    answer = engine.ask(engine.encode(read_rgb(ELISA / "images/image0.png")), _ask(text))
    assert all(answer.text[b:e].startswith("[") for region in answer.regions for b, e in region.spans)


def _ask(text: str) -> Ask:
    return Ask(text, verbatim=True, proposals=Proposals(embeddings=embeddings_of("image0")), max_new_tokens=20)


def _prompt(engine: SupportedEngine, text: str) -> list[int]:
    from lisa_ros.extractive.mentions import messages_of

    return engine.engine.reader.prompt(messages_of([], text, None, literal=True), 6)  # type: ignore[attr-defined]


def test_in_parity_mode_a_typed_mask_word_is_a_part_of_the_answer(parity: SupportedEngine) -> None:
    encoded = parity.encode(read_rgb(ELISA / "images/image0.png"))
    answer = parity.ask(encoded, _ask("Show me the cup <SEG_MASK_3> please."), details=True)
    assert answer.details is not None
    assert answer.details["proposal_ids"][0] == 2
    assert answer.regions[0].spans == ()
    with pytest.raises(CommandError, match="names <SEG_MASK_7>, but the picture has 6 proposals"):
        parity.ask(encoded, _ask("Show me <SEG_MASK_7>."))


def test_phantom_rows_are_chosen_in_parity_mode_only(tmp_path: Path) -> None:
    """The rows behind the words are made the most likely answer of all."""
    folder = write_elisa(tmp_path / "phantom", rows=WORDS + 21)
    file = folder / "models/tiny.pth"
    tensors = torch.load(file, weights_only=True)
    table = tensors["llava_model.llava_model.base_model.model.language_model.model.embed_tokens.weight"]
    rgb = np.full((40, 40, 3), 90, np.uint8)
    ask = Ask("the cup", proposals=Proposals(embeddings=random_embeddings(3)), max_new_tokens=12)
    table[WORDS + 1 :] = 8 * torch.randn(20, table.shape[1], generator=torch.Generator().manual_seed(1))
    torch.save(tensors, file)
    for parity in (True, False):
        engine = load_engine(folder, "cpu", "fp32", {"parity": parity})
        answer = engine.ask(engine.encode(rgb), ask, details=True)
        assert answer.details is not None
        phantoms = [i for i in answer.details["answer_ids"] if i > WORDS + 3]
        assert bool(phantoms) == parity
        assert ("<SEG_MASK_" in answer.text) == parity
        assert answer.details["step_logits"][:, WORDS + 4 :].max() > answer.details["step_logits"][:, : WORDS + 4].max()


def test_a_follow_up_names_a_mask_by_its_number(engine: SupportedEngine) -> None:
    """The number of the last answer becomes the word of that mask; a number that nobody gave is text."""
    picture, query = QUERIES[SPOON_AND_LAMP]
    encoded = engine.encode(read_rgb(ELISA / f"images/{picture}.png"))
    history, proposals = Conversation(), Proposals(embeddings=embeddings_of(picture))
    engine.ask(encoded, Ask(query, verbatim=True, proposals=proposals, history=history))
    engine.ask(encoded, Ask("Not number 2, and [1] and [9].", proposals=proposals, history=history, max_new_tokens=5))
    cached = encoded.value.cache.tokens
    first = WORDS + 1
    asked_at = len(cached) - 1 - cached[::-1].index(engine.engine.reader.words.encode("<start_of_turn>")[0])  # type: ignore[attr-defined]
    mentioned = [i - first for i in cached[:asked_at] if first <= i < first + 6]
    assert mentioned == [4, 0, 0, 4]  # the first answer's two, then "number 2" and "[1]"


def test_numbers_of_another_frame_are_text(engine: SupportedEngine) -> None:
    picture, query = QUERIES[SPOON_AND_LAMP]
    history = Conversation()
    first = engine.encode(read_rgb(ELISA / f"images/{picture}.png"))
    engine.ask(
        first, Ask(query, verbatim=True, proposals=Proposals(embeddings=embeddings_of(picture)), history=history)
    )
    second = engine.encode(read_rgb(ELISA / "images/image2.png"))
    proposals = Proposals(embeddings=embeddings_of("image2"))
    engine.ask(second, Ask("Not number 2.", proposals=proposals, history=history, max_new_tokens=1))
    assert not any(WORDS < i <= WORDS + 4 for i in second.value.cache.tokens)
    assert len(history.turns) == 2


# --- the loop


def test_the_cache_changes_nothing(random_engine: SupportedEngine) -> None:
    """Every step's logits are those of one pass over the whole text, with the whole word table built."""
    rgb = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    proposals = Proposals(embeddings=random_embeddings(7))
    encoded = random_engine.encode(rgb)
    answer = random_engine.ask(encoded, Ask("where is the cup?", proposals=proposals, max_new_tokens=12), details=True)
    assert answer.details is not None
    ids, logits = answer.details["answer_ids"], answer.details["step_logits"]
    model = random_engine.engine.reader.model  # type: ignore[attr-defined]
    with torch.inference_mode():
        rows = model.adapter(torch.from_numpy(proposals.embeddings))
        first = WORDS + 1
        table = torch.cat([model.words[:first], rows, model.words[first:]])
        head = (
            table
            if model.lm_head is None
            else torch.cat([model.lm_head.weight[:first], rows, model.lm_head.weight[first:]])
        )
        whole = torch.tensor(encoded.value.cache.tokens)
        scale = 48**0.5 if model.config.text_config.model_type == "gemma" else 1.0
        embedded = F.embedding(whole.clamp_min(0), table) * scale
        embedded[whole < 0] = encoded.value.seen.tokens[0] * scale
        hidden = model.language_model(inputs_embeds=embedded[None]).last_hidden_state[0]
        expected = hidden[-len(ids) :] @ head.T
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=2e-4)


def test_attention_adapter_is_the_sum_of_skips_and_the_last_views(random_engine: SupportedEngine) -> None:
    """Written out, without the modules' own forward."""
    adapter = random_engine.engine.reader.model.adapter  # type: ignore[attr-defined]
    embeddings = torch.from_numpy(random_embeddings(4))
    body = adapter.body
    with torch.inference_mode():
        x = adapter.input_norm(embeddings - adapter.mean)
        views = torch.stack([F.linear(x, one.weight, one.bias) for one in body.linears], 1)
        y = x @ body.final_skip.weight.T
        for block, skip in zip(body.blocks, body.skips, strict=True):
            y = y + views.mean(1) @ skip.weight.T
            query = block.query.expand(4, -1, -1)
            q, k, v = (
                F.linear(part, weight, bias).unflatten(2, (block.attention.num_heads, -1)).transpose(1, 2)
                for part, weight, bias in zip(
                    (query, views, views),
                    block.attention.in_proj_weight.chunk(3),
                    block.attention.in_proj_bias.chunk(3),
                    strict=True,
                )
            )
            seen = ((q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5).softmax(-1) @ v
            z = block.attention.out_proj(seen.transpose(1, 2).flatten(2))
            views = block.norm(block.ffn[3](F.gelu(block.ffn[0](z))))
        expected = adapter.norm(y + views.mean(1)) * adapter.std_emb + adapter.mean_emb
        torch.testing.assert_close(adapter(embeddings), expected, rtol=0, atol=1e-5)


def test_a_draft_saves_passes_and_changes_nothing() -> None:
    engine = load_engine(ELISA, "cpu", "fp32")
    answers, passes = [], []
    for _ in range(2):
        stops: list[bool] = []
        answers.append(asked(engine, CUP, details=True, should_stop=lambda: bool(stops.append(False))))  # noqa: B023
        passes.append(len(stops))
    first, second = (answer.details or {} for answer in answers)
    assert first["answer_ids"] == second["answer_ids"]
    np.testing.assert_allclose(first["step_logits"], second["step_logits"], rtol=0, atol=1e-4)
    assert passes[1] < passes[0]


def test_a_command_can_be_canceled_between_passes() -> None:
    engine = load_engine(ELISA, "cpu", "fp32")
    calls = iter([False, False, False, True])
    with pytest.raises(Cancelled):
        asked(engine, CUP, should_stop=lambda: next(calls))
    assert asked(engine, CUP).text == "The cup is [1]. A cup stands on the table."


def test_a_command_that_does_not_fit_says_so(engine: SupportedEngine) -> None:
    encoded: Encoded = engine.encode(read_rgb(ELISA / "images/image0.png"))
    with pytest.raises(CommandError, match=r"the prompt has \d+ tokens; .* reads at most 384"):
        engine.ask(encoded, Ask("the cup and " * 200, proposals=Proposals(embeddings=random_embeddings(1))))


# --- folders


def test_a_folder_is_recognised_by_its_content(engine: SupportedEngine) -> None:
    assert (engine.info.name, engine.info.precision) == ("ELISA", "fp32")
    assert engine.info.capabilities == {"history", "proposals"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "sesame"}, "option family is 'sesame'"),
        ({"parity": "yes"}, "option parity is 'yes'; it must be true or false"),
        ({"weights": "other"}, "option weights is 'other'; .* has tiny"),
        ({"points": 3}, "engine 'elisa' has no option 'points'"),
        ({"proposer": "drawn"}, "option proposer is 'drawn'; engine 'elisa' proposes with 'sam' only"),
        ({"limit": 5}, "option proposer is ''; engine 'elisa' proposes with 'sam' only"),
        ({"proposer": "sam", "proposer_options": 3}, "option proposer_options is 3; give a mapping"),
        ({"proposer": "sam", "proposer_options": {"points": 0}}, "option points is 0"),
        ({"proposer": "sam", "proposer_options": {"size": 9}}, "'sam' has no option 'size'"),
        ({"proposer": "sam", "order": "size"}, "the order of proposals is 'size'"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine(ELISA, "cpu", "fp32", options)


def test_a_sam_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no SAM in .*ELISA/sam; get one with 'lisa fetch facebook/sam-vit-base'"
    ):
        load_engine(ELISA, "cpu", "fp32", {"proposer": "sam"})
    options = {"proposer": "sam", "proposer_options": {"model": str(tmp_path)}}
    with pytest.raises(CheckpointError, match=f"no SAM in {tmp_path}"):
        load_engine(ELISA, "cpu", "fp32", options)


def test_four_bit_weights_of_the_reference_are_read_from_the_llava(tmp_path: Path) -> None:
    folder = write_elisa(tmp_path / "packed")
    plain = load_engine(folder, "cpu", "fp32")
    file = folder / "models/tiny.pth"
    tensors = torch.load(file, weights_only=True)
    for name in [name for name in tensors if "mlp.gate_proj" in name or "q_proj.base_layer.weight" in name]:
        tensors[name] = torch.zeros(tensors[name].numel() // 2, 1, dtype=torch.uint8)
        tensors[f"{name}.absmax"] = torch.zeros(3)
    torch.save(tensors, file)
    packed = load_engine(folder, "cpu", "fp32")
    rgb = np.full((40, 40, 3), 90, np.uint8)
    ask = Ask("the cup", proposals=Proposals(embeddings=random_embeddings(3)), max_new_tokens=4)
    ours, theirs = (engine.ask(engine.encode(rgb), ask, details=True).details for engine in (packed, plain))
    assert ours is not None
    assert theirs is not None
    np.testing.assert_array_equal(ours["step_logits"], theirs["step_logits"])


def test_a_broken_folder_names_what_is_missing(tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(ELISA, tmp_path / name, copy_function=shutil.copyfile))

    without_mean = copied("mean")
    (without_mean / "models/train_embs_mean.pt").unlink()
    with pytest.raises(CheckpointError, match=r"train_embs_mean\.pt is missing"):
        load_engine(without_mean, "cpu")
    without_llava = copied("llava")
    (without_llava / "llava/model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_engine(without_llava, "cpu")
    two = copied("two")
    shutil.copyfile(two / "models/tiny.pth", two / "models/other.pth")
    with pytest.raises(ConfigError, match="several models; set option weights to one of other, tiny"):
        load_engine(two, "cpu")
    cut = copied("cut")
    tensors = torch.load(cut / "models/tiny.pth", weights_only=True)
    del tensors["adapter.mlp.3.bias"]
    torch.save(tensors, cut / "models/tiny.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: adapter\.mlp\.3\.bias"):
        load_engine(cut, "cpu")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "nf4"])
def test_other_precisions_answer(precision: str) -> None:
    if precision in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes", reason="needs pip install 'lisa_ros[quant]'")
    engine = load_engine(ELISA, "cpu", precision)
    answer = asked(engine, CUP)
    assert engine.info.precision == precision
    assert answer.text.startswith("The cup is [1]")


@given(
    st.lists(st.text(st.characters(exclude_characters="[]\ufdd1", exclude_categories=("Cs",)), max_size=8), min_size=1),
    st.data(),
    st.integers(0, 4),
)
def test_every_span_is_a_number_of_the_text(texts: list[str], data: st.DataObject, most: int) -> None:
    proposals = data.draw(st.lists(st.integers(0, 5), min_size=len(texts) - 1, max_size=len(texts) - 1))
    text = mention_text(texts, proposals, most)
    assert len(text.order) == len(set(text.order)) <= most
    for number, spans in enumerate(text.spans, 1):
        assert {text.text[begin:end] for begin, end in spans} == {f"[{number}]"}
    assert text.text.count("[") == len(text.mentions) == text.marked.count(MENTION)
