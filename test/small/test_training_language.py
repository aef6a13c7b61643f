"""Conversations packed behind one picture are what each would be alone."""

import random
from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_data import CLASSES, conversations_for, sentences, write_scenes

from lisa_ros.lisa.model.lisa import image_columns, predicting
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_small.network.conv import ConvImageEncoder
from lisa_small.network.tower import SharedTower
from lisa_small.training.dialogue import COLOURED, NAMED, VERDICT, Speech
from lisa_small.training.language import LanguageConfig, Library, exactness, seg_truth
from lisa_small.training.model import QUESTIONS, Sizes, build_lisa, build_sam
from lisa_small.training.packing import WHOLE_ATTENTION, cells_of, pack, read_packed
from lisa_small.training.pointing import HEADS, attention_of, pointing_losses
from lisa_small.training.scenes import Scene, read_scenes
from lisa_small.training.stages import Run
from lisa_small.training.vocabulary import train_tokenizer

INDEX = {name: i for i, name in enumerate(CLASSES)}


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(sentences(), 320, folder)
    return Speech(Tokenizer.from_folder(folder), template("compact"), QUESTIONS)


def test_the_vocabulary_has_llamas_ids_and_reads_what_it_never_saw(speech):
    tokenizer = speech.tokenizer
    assert [tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id] == [0, 1, 2]
    assert tokenizer.unk_id not in tokenizer.encode("Zwölf Boxkämpfer jagen 27 Viktor 🥊")
    assert tokenizer.id_of("[SEG]") == len(tokenizer) - 3


def test_only_answers_are_trained_and_every_seg_knows_its_mask(speech):
    turns = [
        {"command": "Find the ball.", "targets": [1], "answer": "It is the ball, [SEG].", "explain": False},
        {"command": "Find the box.", "targets": [], "answer": "There is no box here.", "explain": False},
    ]
    suffix = speech.suffix({"kind": "followup", "turns": turns})
    trained = [i for i, on in zip(suffix.ids, suffix.weights, strict=True) if on]
    assert speech.tokenizer.answer_text(trained).replace(" ", "") == "Itistheball,[SEG].Itistheboxthatisnothere."
    assert suffix.targets == [[1]]
    assert [suffix.ids[at] for at in suffix.segs] == [speech.tokenizer.id_of("[SEG]")]


def test_what_is_seen_weighs_more_than_other_words_of_an_answer(speech):
    scene = [{"id": 1, "class": "ball", "color": "red"}]
    turn = {"command": "the blue ball", "targets": [], "answer": "The red ball is not blue.", "explain": False}
    suffix = speech.suffix({"turns": [turn]}, objects=scene)
    weights = {}
    for word, weight in (("red", COLOURED), ("ball", NAMED), ("that", VERDICT), ("not", 1.0)):
        (first,) = [at for at, _ in speech._find(suffix.ids, suffix.weights.index(1.0), len(suffix.ids), word)]
        weights[word] = (suffix.weights[first], weight)
    assert all(given == wanted for given, wanted in weights.values()), weights


def test_a_share_of_a_need_is_not_heard_and_answers_and_names_are_left_alone(speech):
    turns = [{"command": "I want to play with it, now!", "targets": [1], "answer": "It is the ball, [SEG]."}]
    unknown = speech.tokenizer.unk_id
    for kind, forgets in (("need", True), ("use", True), ("property", True), ("name", False), ("false_premise", False)):
        before, suffix = (speech.suffix({"kind": kind, "turns": turns}) for _ in range(2))
        speech.forget(suffix, 0.5, random.Random(0))
        gone = [i for i, (old, new) in enumerate(zip(before.ids, suffix.ids, strict=True)) if old != new]
        assert bool(gone) == forgets
        assert all(suffix.ids[i] == unknown and not suffix.weights[i] for i in gone)
        suffix.ids = before.ids
        speech.forget(suffix, 0.0, random.Random(0))
        assert suffix == before


def test_an_answer_without_its_seg_is_refused(speech):
    turn = {"command": "Find the ball.", "targets": [1], "answer": "It is the ball.", "explain": False}
    with pytest.raises(ValueError, match="0 \\[SEG\\] for 1 masks"):
        speech.suffix({"turns": [turn]})


def test_packed_conversations_equal_single_ones(speech, tmp_path):
    torch.manual_seed(0)
    scenes = read_scenes(write_scenes(tmp_path / "data", 4))
    library = Library(scenes, INDEX, speech, conversations_for, 64, 4)
    sizes = Sizes(
        image_size=64, channels=16, decoder_mlp=16, grid=4, mm_hidden=16, hidden=32, intermediate=48, layers=2, heads=4
    )
    lisa = build_lisa(sizes, len(speech.tokenizer), build_sam(16, 64, 8, 16), ConvImageEncoder(16), len(CLASSES))
    numbers, suffixes = library.draw(2, 3, random.Random(1))
    images = [(library.cells[n].index, torch.randn(len(library.cells[n].index), 32)) for n in numbers]
    lisa.llama.set_attn_implementation(WHOLE_ATTENTION)  # as training has it
    with torch.no_grad():
        packed = pack(lisa, speech, images, suffixes, 16)
        together = read_packed(lisa, packed)[-1][packed.answer_rows, packed.answer_at]
        alone = []
        for image, conversations in zip(images, suffixes, strict=True):
            for suffix in conversations:
                one = pack(lisa, speech, [image], [[suffix]], 16)
                alone.append(read_packed(lisa, one)[-1][one.answer_rows, one.answer_at])
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_packed_with_all_cells_is_what_the_segmenter_reads(speech):
    """Positions, mask and order agree with embed and read, which inference uses."""
    torch.manual_seed(0)
    sizes = Sizes(
        image_size=64, channels=16, decoder_mlp=16, grid=4, mm_hidden=16, hidden=32, intermediate=48, layers=2, heads=4
    )
    lisa = build_lisa(sizes, len(speech.tokenizer), build_sam(16, 64, 8, 16), ConvImageEncoder(16), len(CLASSES))
    turn = {"command": "Find the ball.", "targets": [1], "answer": "It is the ball, [SEG].", "explain": False}
    suffix = speech.suffix({"turns": [turn]})
    tokens = torch.randn(16, 32)
    text = "USER: <im_start><image><im_end>\nFind the ball. ASSISTANT: It is the ball, [SEG].</s>"
    ids = torch.tensor([speech.tokenizer.encode_prompt(text)])
    with torch.no_grad():
        packed = pack(lisa, speech, [(torch.arange(16), tokens)], [[suffix]], 16)
        ours = read_packed(lisa, packed)[-1][0]
        expanded = ids.gather(1, image_columns(ids, 16))
        theirs = lisa.read(lisa.embed(expanded, tokens[None]))[0]
    assert torch.allclose(ours, theirs, atol=1e-5)
    where = predicting(expanded, speech.tokenizer.id_of("[SEG]"))[0].nonzero().flatten().tolist()
    assert [at for _, at, _ in packed.segs] == where


def test_cells_know_what_covers_them(tmp_path):
    scene = read_scenes(write_scenes(tmp_path / "data", 2))[1]
    cells = cells_of(scene, INDEX, 64, 4)
    ball, box = cells.places[1], cells.places[2]
    assert ball[0] < box[0]
    assert cells.share[:, :2].max() > 0.3
    assert len(cells.index) < 16


def test_cells_know_where_middles_are_and_what_is_not_the_only_one_of_its_class():
    ids = np.zeros((64, 64), np.uint8)
    ids[:16, :16], ids[48:, 48:] = 1, 2  # two balls in corners
    ids[20:44, 20:44] = 3  # a box like a frame: its middle is bare
    ids[22:42, 22:42] = 0
    objects = [{"id": 1, "class": "ball"}, {"id": 2, "class": "ball"}, {"id": 3, "class": "box"}]
    cells = cells_of(Scene({"objects": objects}, np.zeros((64, 64, 3), np.uint8), ids), INDEX, 64, 4)
    middles, alike = cells.whole_share(4)[:, -2:].unbind(1)
    assert middles.sum() == 3 and middles[0] == middles[15] == 1
    (frame,) = set(middles.nonzero().flatten().tolist()) - {0, 15}
    assert cells.parts[3][frame] > 0, "the middle of a frame is on the frame"
    assert alike.nonzero().flatten().tolist() == [0, 15]


def test_the_tower_tells_things_apart_and_marks_what_is_not_the_only_one_of_its_class():
    tower = SharedTower(3, 2, 8, 8, classes=2, colours=1, things=True)
    recognition, words = tower.reader
    assert words.in_features == 2 + 1 + 2
    with torch.no_grad():  # channels of the embedding: nothing, the first class, the second
        recognition.cell_class.weight.copy_(40.0 * torch.eye(3)[:, :, None, None])
        recognition.cell_class.bias.zero_()
    seen = np.zeros((8, 8), int)
    seen[:2, :2], seen[4:, 4:], seen[:2, 5:8] = 1, 1, 2  # two of the first class, one of the second
    seen[7, 0] = 2  # a speck is no thing
    embedding = torch.nn.functional.one_hot(torch.from_numpy(seen), 3).permute(2, 0, 1)[None].float()
    shares = tower.shares(embedding)[0]
    assert shares[:, -2].tolist() == [1.0, 1.0, 0.0, 1.0]
    assert torch.allclose(shares[:, -1], torch.tensor([0.25, 0.0, 0.0, 1.0]), atol=1e-4)


def test_presence_is_the_best_match_and_changes_what_is_said(speech):
    torch.manual_seed(0)
    sizes = Sizes(
        image_size=64, channels=16, decoder_mlp=16, grid=4, mm_hidden=16, hidden=32, intermediate=48, layers=2, heads=4
    )
    lisa = build_lisa(sizes, len(speech.tokenizer), build_sam(16, 64, 8, 16), ConvImageEncoder(16), len(CLASSES))
    states, tokens = torch.randn(5, 32), torch.randn(16, 32)
    with torch.no_grad():
        lisa.presence.threshold.fill_(0.3)
        query = lisa.presence.query(states)
        best = torch.stack([max(q @ token for token in tokens) for q in query]) / 32**0.5 - 0.3
        assert torch.allclose(lisa.presence.match(states, tokens), best, atol=1e-5)
        assert torch.equal(lisa.predict(states, tokens), lisa.lm_head(states))  # it has learned nothing yet
        lisa.presence.tokens[7] = 2.0
        added = lisa.predict(states, tokens) - lisa.lm_head(states)
    assert torch.allclose(added[:, 7], 2 * best, atol=1e-5)
    assert not added[:, :7].any()


def test_what_is_not_as_it_was_said_is_absent_too(speech):
    turn = {"command": "Find the red ball.", "targets": [], "answer": "There is no red ball here.", "explain": False}
    assert [there for _, there in speech.suffix({"kind": "absent", "turns": [turn]}).presence] == [False]
    turn = turn | {"answer": "The balls are not left of the box."}
    suffix = speech.suffix({"kind": "false_premise", "turns": [turn]})
    assert [there for _, there in suffix.presence] == [False]
    assert speech.tokenizer.decode(suffix.ids[suffix.presence[0][0] :]).lstrip().startswith("that are not left")


@pytest.fixture
def reading(speech, tmp_path):
    """A small untrained model, its library, and one packed batch with its states."""
    torch.manual_seed(0)
    library = Library(read_scenes(write_scenes(tmp_path / "data", 4)), INDEX, speech, conversations_for, 64, 4)
    sizes = Sizes(
        image_size=64, channels=16, decoder_mlp=16, grid=4, mm_hidden=16, hidden=32, intermediate=48, layers=3, heads=4
    )
    lisa = build_lisa(sizes, len(speech.tokenizer), build_sam(16, 64, 8, 16), ConvImageEncoder(16), len(CLASSES))
    numbers, suffixes = library.draw(3, 4, random.Random(1))
    images = [(library.cells[n].index, torch.randn(len(library.cells[n].index), 32)) for n in numbers]
    packed = pack(lisa, speech, images, suffixes, 16)
    return lisa, library, numbers, packed, read_packed(lisa, packed)


def test_words_know_what_they_point_at(speech):
    objects = [{"id": 1, "class": "ball"}, {"id": 2, "class": "box"}]
    turn = {"command": "Find the ball.", "targets": [1], "answer": "It is the ball, [SEG].", "explain": False}
    suffix = speech.suffix({"turns": [turn]}, objects=objects)
    assert [members for _, members in suffix.nouns] == [[1]]
    (noun, _), *_ = suffix.nouns
    assert speech.tokenizer.decode(suffix.ids[: noun + 1]).endswith("ball")
    meant = [at for at, members in suffix.meant if members == [1]]
    said = speech.tokenizer.decode([suffix.ids[at] for at in sorted(meant)])
    assert meant and said.replace(" ", "").startswith("Itis")
    assert suffix.segs[0] in meant
    assert {tuple(members) for _, members in suffix.asked} == {(1,)}
    assert {at for at, _ in suffix.asked} == {at for at in meant if at < suffix.segs[0]}


def test_what_else_was_asked_about_is_looked_at_before_what_is_meant(speech):
    objects = [{"id": 1, "class": "ball"}, {"id": 2, "class": "box"}, {"id": 3, "class": "ball"}]

    def asked_about(command, targets, answer):
        turn = {"command": command, "targets": targets, "answer": answer, "explain": False}
        return {tuple(members) for _, members in speech.suffix({"turns": [turn]}, objects=objects).asked}

    assert asked_about("the ball left of the box", [3], "It is the ball, [SEG].") == {(2,)}
    assert asked_about("the left ball", [1], "It is the ball, [SEG].") == {(1, 3)}
    assert asked_about("the box left of the ball", [], "The box is not left of the ball.") == {(1, 3)}


def test_a_colour_that_is_said_points_at_what_has_it(speech):
    objects = [
        {"id": 1, "class": "ball", "color": "red"},
        {"id": 2, "class": "box", "color": "red"},
        {"id": 3, "class": "ball", "color": "blue"},
    ]
    turn = {"command": "the red ball", "targets": [1], "answer": "It is the red ball, [SEG].", "explain": False}
    suffix = speech.suffix({"turns": [turn]}, objects=objects)
    assert sorted(members for _, members in suffix.nouns) == [[1, 2], [1, 3]]
    assert {tuple(members) for _, members in suffix.meant} == {(1,)}


def test_a_colour_that_is_not_so_is_denied_after_the_one_that_is(speech):
    turn = {"command": "the red ball", "targets": [], "answer": "The blue ball is not red.", "explain": False}
    suffix = speech.suffix({"turns": [turn]}, objects=[{"id": 3, "class": "ball", "color": "blue"}])
    answer = speech.tokenizer.decode([i for i, on in zip(suffix.ids, suffix.weights, strict=True) if on])
    assert answer.replace(" ", "").startswith("Itistheblueballthatisnotred.")
    assert {tuple(members) for _, members in suffix.meant} == {(3,)}, "where the colour is read off"
    assert [there for _, there in suffix.presence] == [False]


def test_one_thing_has_a_place_and_several_have_none(tmp_path):
    scene = read_scenes(write_scenes(tmp_path, 2))[1]  # of a ball and a box
    cells = cells_of(scene, INDEX, 64, 4)
    ids = [1, 2]
    _, places, single = seg_truth([(0, 0, ids[:1]), (0, 0, ids)], [scene], [cells], INDEX)
    assert single.tolist() == [1.0, 0.0]
    assert places[0].tolist() == pytest.approx(cells.places[ids[0]][:2])
    cells.places.clear()  # hidden behind others
    assert seg_truth([(0, 0, [1])], [scene], [cells], INDEX)[2].tolist() == [0.0]


def test_told_heads_look_as_the_model_looks(reading):
    lisa, _, _, packed, states = reading
    whole = lisa.llama.config._attn_implementation
    lisa.llama.set_attn_implementation("eager")
    allowed = torch.zeros(packed.mask.shape).masked_fill(~packed.mask, torch.finfo(torch.float32).min)
    looks = lisa.llama(
        inputs_embeds=packed.embedded,
        attention_mask=allowed,
        position_ids=packed.positions,
        use_cache=False,
        output_attentions=True,
    ).attentions
    lisa.llama.set_attn_implementation(whole)
    query, key = attention_of(lisa, packed, states, 2)
    scores = (query @ key.transpose(2, 3)) * 8**-0.5
    ours = scores.masked_fill(~packed.mask, -torch.inf).softmax(-1)
    assert torch.allclose(ours, looks[2][:, :HEADS], atol=1e-5)


def test_being_told_where_to_look_is_learned(reading):
    lisa, library, numbers, packed, states = reading
    cells = [library.cells[number] for number in numbers]
    before = {name: loss.item() for name, loss in pointing_losses(lisa, packed, states, cells).items()}
    assert before.keys() == {"nouns", "asked", "meant"}
    assert all(value > 0 for value in before.values())
    told = deepcopy(lisa)
    optimizer = torch.optim.Adam(told.llama.layers.parameters(), lr=3e-3)
    for _ in range(40):
        loss = sum(pointing_losses(told, packed, tuple(state.detach() for state in states), cells).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = pointing_losses(told, packed, states, cells)
    assert all(after[name].item() < 0.7 * early for name, early in before.items())


def test_exactness_is_that_of_greedy_answers(reading):
    lisa, library, *_ = reading

    def picture(number, rng):
        index = library.cells[number].index
        return index, torch.zeros(len(index), 32)

    found = exactness(lisa, library, picture, "test", count=8, each=3)
    assert found["exact"] == 0  # it has learned nothing
    assert {key for key in found if key != "exact"} <= {"exact name", "exact absent", "exact followup"}


def test_only_so_many_cells_become_tokens_and_every_thing_keeps_one(reading):
    _, library, *_ = reading
    cells = library.cells[1]
    assert set(cells.parts) == {1, 2}
    assert all(part.sum() == pytest.approx(1) for part in cells.parts.values())
    assert torch.equal(cells.whole_share(4)[cells.index], cells.share)
    run = SimpleNamespace(recipe=SimpleNamespace(sizes=SimpleNamespace(grid=4)))
    shown = Run._cells_shown(
        run, cells.index, cells, LanguageConfig(1, covered_cells=2, empty_cells=3), random.Random(0)
    )
    assert len(shown) == 5
    assert {int(part.argmax()) for part in cells.parts.values()} <= set(shown.tolist())
    assert len(set(shown.tolist()) & set(cells.index.tolist())) == 2
    everything = Run._cells_shown(run, cells.index, cells, LanguageConfig(1, empty_cells=16), random.Random(0))
    assert sorted(everything.tolist()) == list(range(16))
