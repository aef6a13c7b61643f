"""Commands about scenes. They need the world table and a scene's record only; nothing is rendered."""

from __future__ import annotations

import hashlib
import json
import random
import re
from string import Formatter

import pytest

from benchmarks import other_words
from lisa_ros.errors import ConfigError
from lisa_small.scenes.commands import KINDS, contract, conversations_by, conversations_for, sentences
from lisa_small.scenes.commands.conversations import MAKERS
from lisa_small.scenes.phrasings import FOLDER, load_phrasings, read_phrasings
from lisa_small.scenes.world import CLASSES, WORLD, load_world


def record(*labels: str, seed: int = 0) -> dict:
    """A scene's line in scenes.jsonl with these objects at random places."""
    rng = random.Random(seed)
    objects = []
    for number, label in enumerate(labels, 1):
        x, y = rng.uniform(20, 300), rng.uniform(20, 220)
        objects.append(
            {
                "id": number,
                "class": label,
                "color": rng.choice((None, "red", "blue")) if WORLD.things[label].paintable else None,
                "position": [(x - 160) / 300, (y - 120) / 300, 1.2 - y / 400],
                "size": [rng.uniform(0.05, 0.3), 0.05, 0.05],
                "area": rng.randrange(200, 5000),
                "centroid": [x, y],
            }
        )
    return {"id": "0", "camera": {"width": 320, "height": 240}, "objects": objects}


def random_record(seed: int) -> dict:
    rng = random.Random(seed)
    labels: list[str] = []
    while len(labels) < rng.randint(2, 8):
        label = rng.choice(CLASSES)
        if not set(WORLD.things[label].near) & set(labels):
            labels += [label] * rng.choice((1, 1, 1, 2))
    return record(*labels, seed=seed)


SCENES = [random_record(seed) for seed in range(150)]


def conversations(split: str) -> list[tuple[dict, dict]]:
    """Pairs of a scene and a conversation about it."""
    rng = random.Random(split)
    return [(scene, conversation) for scene in SCENES for conversation in conversations_for(scene, rng, 12, split)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_answer_names_its_targets_before_the_mask_token_and_has_one_only_with_targets(split):
    for scene, conversation in conversations(split):
        labels = {thing["id"]: thing["class"] for thing in scene["objects"]}
        for turn in conversation["turns"]:
            before, mask_token, _ = turn["answer"].partition("[SEG]")
            assert bool(mask_token) == bool(turn["targets"]), turn
            assert turn["answer"].count("[SEG]") <= 1
            for label in {labels[target] for target in turn["targets"]}:
                assert label in before or WORLD.things[label].plural in before, turn


def test_an_absent_thing_is_nowhere_in_the_scene():
    for scene, conversation in conversations("train"):
        if conversation["kind"] == "absent":
            answer = conversation["turns"][0]["answer"]
            for thing in scene["objects"]:
                assert answer != f"There is no {thing['class']} here.", (answer, scene)


def test_training_asks_more_often_for_absent_things_that_are_akin_to_present_ones():
    table, kin = record("cup", "hammer"), WORLD.kinship["cup"]
    assert kin["glass"] > 5 and kin["saw"] == 0
    share = {}
    for split in ("train", "test"):
        made = conversations_for(table, random.Random(0), 300, split, kinds={"absent": 1})
        answers = [conversation["turns"][-1]["answer"] for conversation in made]
        share[split] = sum(answer.startswith("There is no glass here") for answer in answers) / len(answers)
    assert share["train"] > 4 * share["test"] and share["train"] < 0.5


def test_training_describes_absent_things_more_often_than_tests_do():
    phrases = [phrase.text.lower().rstrip(".!?") for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties)]
    described = {}
    for split in ("train", "test"):
        made = conversations_for(record("cup", "hammer"), random.Random(0), 200, split, kinds={"absent": 1})
        commands = [conversation["turns"][0]["command"].lower() for conversation in made]
        described[split] = sum(any(phrase in command for phrase in phrases) for command in commands) / len(commands)
    assert described["train"] > described["test"] + 0.1, described


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_absent_need_is_denied_by_the_first_class_that_fits_it(split):
    table, fits = record("cup", "hammer"), {phrase.text.lower().rstrip("."): phrase for phrase in WORLD.needs}
    asked = 0
    for conversation in conversations_for(table, random.Random(0), 200, split, kinds={"absent": 1}):
        turn = conversation["turns"][0]
        phrase = next((phrase for text, phrase in fits.items() if text in turn["command"].lower()), None)
        if phrase is not None:
            first = next(thing for label, thing in WORLD.things.items() if label in phrase.fits)
            assert not {"cup", "hammer"} & (phrase.fits | phrase.unsure), turn
            assert turn["answer"] in {f"There {verb} no {first.label} here." for verb in ("is", "are")}, turn
            asked += 1
    assert asked > 20


@pytest.mark.parametrize("there", [True, False])
def test_phrases_with_more_weight_are_asked_more_often(there):
    """Weights differ between phrases that something fits and phrases that nothing fits."""
    table, hard = record("cup", "hammer"), {phrase.text for phrase in WORLD.needs[::20]}
    asked = []

    def weight(phrase: str, fits: bool) -> float:
        return 50.0 if fits is there and phrase in hard else 1.0

    kinds = {"need": 1} if there else {"absent": 1}
    for conversation in conversations_for(table, random.Random(0), 300, "train", kinds=kinds, weight=weight):
        if "phrase" in conversation:
            assert bool(conversation["turns"][0]["targets"]) is there
            asked.append(conversation["phrase"])
    needs = [phrase for phrase in asked if phrase in {phrase.text for phrase in WORLD.needs}]
    assert len(needs) > 40
    assert sum(phrase in hard for phrase in needs) > len(needs) / 2


def test_without_weights_a_conversation_does_not_record_its_phrase():
    assert not any("phrase" in conversation for _, conversation in conversations("train"))


def test_kinship_comes_from_phrases_of_training_only():
    held = {phrase.text for phrase in WORLD.held_needs}
    counted = [phrase for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties) if "pen" in phrase.fits]
    assert not held & {phrase.text for phrase in counted}
    named = sum(len((phrase.fits | phrase.unsure) - {"pen"}) for phrase in counted)
    assert WORLD.kinship["pen"].total() == named


def test_a_need_marks_every_object_that_fits_it():
    scene = record("cup", "mug", "hammer")
    texts = {phrase.text: phrase.fits for phrase in WORLD.needs}
    rng = random.Random(1)
    for conversation in conversations_for(scene, rng, 300, "train"):
        if conversation["kind"] != "need":
            continue
        turn = conversation["turns"][0]
        command = turn["command"].lower()  # "I am" is contracted before it is lowered
        forms = ((fits, {text.lower().rstrip("."), contract(text).lower().rstrip(".")}) for text, fits in texts.items())
        fitting = [fits for fits, texts in forms if any(text in command for text in texts)]
        expected = {thing["id"] for thing in scene["objects"] if any(thing["class"] in f for f in fitting)}
        assert set(turn["targets"]) == expected, turn


def test_a_thirsty_person_gets_every_drink_and_no_glass():
    def thirsty(*labels):
        made = conversations_for(record(*labels), random.Random(2), 400, "train", {"need": 1.0})
        turns = [conversation["turns"][0] for conversation in made]
        return [turn for turn in turns if contract("I am thirsty.").rstrip(".") in contract(turn["command"])]

    turns = thirsty("milk carton", "beer bottle", "hammer")
    assert turns and all(turn["targets"] == [1, 2] for turn in turns)
    assert not thirsty("milk carton", "glass")


def test_a_command_that_one_could_argue_about_is_not_made():
    scene = record("wine glass", "cup")  # water can be drunk from both, from none as from a glass
    for conversation in conversations_for(scene, random.Random(0), 300, "train"):
        assert "drink water from" not in conversation["turns"][0]["command"]


def test_the_same_seed_gives_the_same_conversations():
    first = conversations_for(SCENES[3], random.Random(7), 20, "train")
    assert first == conversations_for(SCENES[3], random.Random(7), 20, "train")


DIGESTS = {
    "train": "ad09f4825a9bd5450a2614fb48fa9b3601fe9b2464216faaacc91e8dfce6324c",
    "test": "dd51d112eb7fed198d8d3a0b0146f9e3a52c1b6a14e893770bba4317a421be38",
}
"""SHA-256 of the conversations. They change with world.yaml and phrasings/*.yaml: then copy the new ones here. A change
of code alone must not change them, because a seed then no longer gives the same data set."""


@pytest.mark.parametrize("split", DIGESTS)
def test_a_seed_gives_the_conversations_that_it_always_gave(split):
    digest = hashlib.sha256()
    for kind in ({}, *({kind: 1.0} for kind in KINDS)):
        rng = random.Random(f"{split} {kind}")
        made = [conversations_for(scene, rng, 4, split, kind) for scene in SCENES[:40]]
        digest.update(json.dumps(made).encode())
    assert digest.hexdigest() == DIGESTS[split]


def test_the_text_for_the_tokenizer_is_what_it_always_was():
    digest = hashlib.sha256("\n".join(sentences(3)).encode()).hexdigest()
    assert digest == "381d42e7894dbbf2d5902bfc8498a0deeb9e6b99775e06997d1ed70b05746338"


def test_every_kind_has_a_share_and_a_maker():
    assert KINDS.keys() == MAKERS.keys() and min(KINDS.values()) > 0


def test_every_kind_of_command_is_made_in_both_splits():
    for split in ("train", "test"):
        assert {conversation["kind"] for _, conversation in conversations(split)} == set(KINDS)


def test_phrasings_of_tests_are_never_used_in_training():
    for name, phrasings in load_phrasings().items():
        assert not set(phrasings.train) & set(phrasings.test), name
    assert all(conversation["held_out"] for _, conversation in conversations("test"))
    assert not any(conversation["held_out"] for _, conversation in conversations("train"))


def test_only_the_kinds_that_are_asked_for_are_made():
    made = [
        conversation
        for scene in SCENES[:30]
        for conversation in conversations_for(scene, random.Random(1), 6, "train", {"use": 1})
    ]
    assert made and {conversation["kind"] for conversation in made} == {"use"}
    with pytest.raises(ConfigError, match="no kind of command is called usage"):
        conversations_for(SCENES[0], random.Random(1), 6, "train", {"usage": 1.0})


def test_a_false_property_is_denied_for_both_things_of_a_class():
    scene = record("hammer", "hammer", "cup")
    turns = [t["turns"][0] for t in conversations_for(scene, random.Random(3), 60, "train", {"false_premise": 1.0})]
    assert any(turn["answer"] == "The hammers are not like that." for turn in turns)
    assert any(turn["answer"] == "The cup is not like that." for turn in turns)
    assert not any(turn["answer"] == "The hammer is not like that." for turn in turns)


def test_a_false_colour_is_denied_with_the_true_one():
    scene = record("mug", "mug", "towel")
    for thing, colour in zip(scene["objects"], ("red", "blue", "green"), strict=True):
        thing["color"] = colour
    made = conversations_for(scene, random.Random(5), 60, "train", {"false_premise": 1.0})
    answers = {conversation["turns"][0]["answer"] for conversation in made}
    assert any(answer.startswith("The blue and red mugs are not ") for answer in answers)
    assert any(answer.startswith("The green towel is not ") for answer in answers)
    assert not any(answer.startswith(("The green towel is not green", "There is no")) for answer in answers)


def test_painted_things_take_a_singular_verb():
    """Questions about colours say "is" and "its"."""
    assert not any(thing.paintable and thing.many for thing in WORLD.things.values())


def test_a_question_about_a_colour_has_one_target_and_the_answer_names_the_colour():
    scene = record("mug", "mug", "towel", "hammer")
    for thing, colour in zip(scene["objects"], ("red", "blue", "green", None), strict=True):
        thing["color"] = colour
    for split in ("train", "test"):
        made = conversations_for(scene, random.Random(5), 6, split, {"colour": 1.0})
        turns = [turn for conversation in made for turn in conversation["turns"]]
        assert len(turns) == 6
        assert {(turn["answer"], *turn["targets"]) for turn in turns} == {("It is the green towel, [SEG].", 3)}


def test_training_has_about_as_many_true_colours_as_false_ones():
    kinds = {"name": 0.55, "false_premise": 0.45}
    scenes = [record("mug", "towel", "kettle") for _ in range(40)]
    for scene in scenes:
        for thing, colour in zip(scene["objects"], ("red", "blue", "green"), strict=True):
            thing["color"] = colour
    turns = [
        conversation["turns"][0]
        for number, scene in enumerate(scenes)
        for conversation in conversations_for(scene, random.Random(number), 12, "train", kinds)
    ]
    true = sum(re.search("the (red|blue|green) .*SEG", turn["answer"]) is not None for turn in turns)
    false = sum(re.match("The (red|blue|green) ", turn["answer"]) is not None for turn in turns)
    assert 0.5 < true / false < 2


def test_training_has_about_as_many_true_relations_as_false_ones():
    kinds = {"place": 0.5, "false_premise": 0.5}
    turns = [
        conversation["turns"][0]
        for scene in SCENES
        for conversation in conversations_for(scene, random.Random(4), 12, "train", kinds)
    ]
    denied = sum(
        " is not " in t["answer"] or " are not " in t["answer"] for t in turns if " like that" not in t["answer"]
    )
    true = sum(bool(t["targets"]) and _names_two(t["command"], t["answer"]) for t in turns)
    assert 0.3 < true / denied < 3


def _names_two(command: str, answer: str) -> bool:
    """Whether the command names the target's class and another class."""
    named = {label for label in CLASSES if f"the {label} " in f"{command} " or f" {label}." in command}
    return len(named) > 1 and any(f"the {label}," in answer for label in named)


def test_every_intention_has_a_dozen_phrasings():
    for name, phrasings in load_phrasings().items():
        assert len(set(phrasings.train)) >= 12, name


def test_held_out_content_is_never_trained_on():
    trained = {phrase.text for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties)}
    assert not trained & {phrase.text for phrase in WORLD.held_needs}
    assert not set(WORLD.never["train"]) & set(WORLD.never["test"])
    kept = [conversation for _, conversation in conversations("test") if conversation["held_out_content"]]
    assert len(kept) > 20


def test_every_class_has_ten_phrases_and_a_reason():
    for label in CLASSES:
        phrases = [p for p in (*WORLD.uses, *WORLD.needs, *WORLD.held_needs, *WORLD.properties) if label in p.fits]
        assert len(phrases) >= 10, (label, len(phrases))
        assert WORLD.things[label].because.endswith(".")


def test_classes_that_share_a_name_know_each_other():
    for thing in WORLD.things.values():
        for near in thing.near:
            assert thing.label in WORLD.things[near].near


def test_an_explanation_gives_the_reason_of_the_target():
    explained = [
        (scene, conversation["turns"][0])
        for scene, conversation in conversations("train")
        if conversation["turns"][0]["explain"] and len(conversation["turns"][0]["targets"]) == 1
    ]
    assert explained
    for scene, turn in explained:
        label = next(thing["class"] for thing in scene["objects"] if thing["id"] == turn["targets"][0])
        assert turn["answer"].endswith(f"[SEG]. {WORLD.things[label].because}")


def test_the_other_one_is_not_the_first_one():
    pairs = [
        conversation
        for _, conversation in conversations("train")
        if conversation["kind"] == "followup" and re.search(r"\bother\b", conversation["turns"][1]["command"].lower())
    ]
    assert pairs
    for conversation in pairs:
        first, second = conversation["turns"]
        assert not set(first["targets"]) & set(second["targets"])


def test_the_text_for_the_tokenizer_covers_all_words_of_training():
    def words(text: str) -> set[str]:
        return {word.strip(".,?!:").lower() for word in text.replace("'s ", " 's ").split()}

    known = set().union(*map(words, sentences()))
    turns = [turn for _, conversation in conversations("train") for turn in conversation["turns"]]
    missing = set().union(*(words(turn["command"]) | words(turn["answer"]) for turn in turns)) - known
    assert not missing


def test_an_unknown_class_is_named(tmp_path):
    table = tmp_path / "world.yaml"
    table.write_text("things: {cup: {names: [cup], because: It holds., near: [mgu]}}\ngroups: {}\nnever: {}\n")
    with pytest.raises(ValueError, match="mgu"):
        load_world(table)


PLACES = "{LEFT: RIGHT, RIGHT: LEFT, FRONT: BEHIND, BEHIND: FRONT}"


@pytest.mark.parametrize(
    ("things", "opposites", "alike", "wrong"),
    [
        ("{cup: {names: [cup], because: It holds., usse: [drink]}}", PLACES, "{}", "no field of a thing usse"),
        ("{}", PLACES.replace(": RIGHT", ": RIHGT"), "{}", "no place RIHGT"),
        ("{}", PLACES.replace("BEHIND: FRONT", ""), "{}", "BEHIND: no opposite"),
        ("{}", PLACES, "{red: [pnik]}", "no colour pnik"),
        ("{}", PLACES, "{rde: [pink]}", "no colour rde"),
    ],
)
def test_an_unknown_field_direction_or_colour_is_named(tmp_path, things, opposites, alike, wrong):
    table = tmp_path / "world.yaml"
    text = "things: {}\nopposites: {}\nalike: {}\ngroups: {{}}\nnever: {{}}\n"
    table.write_text(text.format(things, opposites, alike))
    with pytest.raises(ValueError, match=wrong):
        load_world(table)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("NAEM: {train: [a], test: [b]}", "intention NAEM is unknown; choose from NAME, "),
        ("AGAIN: {train: [a], test: [b]}", "intention AGAIN is in two files"),
        ("NAME: {train: [a]}", "NAME needs the lists train and test"),
        ("NAME: {train: [a], test: [No]}", r"NAME, test, is \[False\]; write a list of texts, in quotes"),
        ("NAME: {train: [], test: [b]}", r"NAME, train, is \[\]"),
        ("NAME: {train: [a], test: [b]}", "no phrasings for COLOUR_OF, USE, "),
    ],
)
def test_a_broken_file_of_phrasings_is_named_with_the_mistake(tmp_path, text, wrong):
    (tmp_path / "a.yaml").write_text("AGAIN: {train: [Again., Once more.], test: [Repeat.]}\n")
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(ValueError, match=wrong):
        read_phrasings(tmp_path)


def test_phrasings_are_read_once():
    assert load_phrasings() is load_phrasings()
    assert load_phrasings() == read_phrasings(FOLDER)


def test_opposites_and_likeness_are_mutual():
    assert all(WORLD.opposites[other] == place != other for place, other in WORLD.opposites.items())
    for colour, others in WORLD.alike.items():
        assert all(colour in WORLD.alike[other] for other in others), colour


def test_there_are_at_least_50_classes():
    assert len(CLASSES) >= 50


def test_the_words_of_the_benchmark_can_be_asked_and_are_not_trained():
    table = other_words.TABLE
    for intention, texts in table["phrasings"].items():
        trained_texts = load_phrasings()[intention].train
        known = {field for text in trained_texts for field in fields_of(text)}
        assert all(set(fields_of(text)) <= known for text in texts), intention
        assert not set(texts) & set(trained_texts), intention
    trained = {phrase.text.lower() for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties)}
    for kind, phrases in other_words.CONTENT.items():
        assert not {phrase.text.lower() for phrase in phrases} & trained, kind
    speaker = other_words.OtherSpeaker(record("cup", "hammer", "book"), random.Random(0), "test")
    made = conversations_by(speaker, 80, other_words.SHARES)
    described = [conversation for conversation in made if conversation["kind"] in other_words.CONTENT]
    commands = [conversation["turns"][0]["command"].lower() for conversation in described]
    texts = {phrase.text for phrases in other_words.CONTENT.values() for phrase in phrases}
    forms = {form.lower().rstrip(".") for text in texts for form in (text, contract(text))}
    assert len(commands) > 30 and all(any(form in command for form in forms) for command in commands)


def fields_of(text: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(text) if field]
