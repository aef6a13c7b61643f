"""Commands about scenes: from the table of world knowledge and a scene's record alone, nothing is drawn."""

from __future__ import annotations

import random
import re
from string import Formatter

import pytest

from benchmarks import other_words
from lisa_ros.errors import ConfigError
from lisa_small.scenes import phrasings
from lisa_small.scenes.commands import KINDS, contract, conversations_for, sentences
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


def talk(split: str) -> list[tuple[dict, dict]]:
    rng = random.Random(split)
    return [(scene, talked) for scene in SCENES for talked in conversations_for(scene, rng, 12, split)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_answer_names_its_targets_before_the_mask_token_and_says_no_more_than_there_is(split):
    for scene, talked in talk(split):
        labels = {thing["id"]: thing["class"] for thing in scene["objects"]}
        for turn in talked["turns"]:
            before, mask_token, _ = turn["answer"].partition("[SEG]")
            assert bool(mask_token) == bool(turn["targets"]), turn
            assert turn["answer"].count("[SEG]") <= 1
            for label in {labels[target] for target in turn["targets"]}:
                assert label in before or WORLD.things[label].plural in before, turn


def test_a_thing_said_to_be_absent_is_nowhere_in_the_scene():
    for scene, talked in talk("train"):
        if talked["kind"] == "absent":
            answer = talked["turns"][0]["answer"]
            for thing in scene["objects"]:
                assert answer != f"There is no {thing['class']} here.", (answer, scene)


def test_training_asks_more_often_for_what_is_absent_but_akin_to_what_is_there():
    table, kin = record("cup", "hammer"), WORLD.kinship["cup"]
    assert kin["glass"] > 5 and kin["saw"] == 0
    share = {}
    for split in ("train", "test"):
        made = conversations_for(table, random.Random(0), 300, split, kinds={"absent": 1})
        answers = [talked["turns"][-1]["answer"] for talked in made]
        share[split] = sum(answer.startswith("There is no glass here") for answer in answers) / len(answers)
    assert share["train"] > 4 * share["test"] and share["train"] < 0.5


def test_training_describes_what_is_absent_more_often_than_it_names_it():
    phrases = [phrase.text.lower().rstrip(".!?") for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties)]
    described = {}
    for split in ("train", "test"):
        made = conversations_for(record("cup", "hammer"), random.Random(0), 200, split, kinds={"absent": 1})
        commands = [talked["turns"][0]["command"].lower() for talked in made]
        described[split] = sum(any(phrase in command for phrase in phrases) for command in commands) / len(commands)
    assert described["train"] > described["test"] + 0.1, described


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_absent_need_is_denied_by_the_first_class_that_fits_it(split):
    table, fits = record("cup", "hammer"), {phrase.text.lower().rstrip("."): phrase for phrase in WORLD.needs}
    asked = 0
    for talked in conversations_for(table, random.Random(0), 200, split, kinds={"absent": 1}):
        turn = talked["turns"][0]
        phrase = next((phrase for text, phrase in fits.items() if text in turn["command"].lower()), None)
        if phrase is not None:
            first = next(thing for label, thing in WORLD.things.items() if label in phrase.fits)
            assert not {"cup", "hammer"} & (phrase.fits | phrase.unsure), turn
            assert turn["answer"] in {f"There {verb} no {first.label} here." for verb in ("is", "are")}, turn
            asked += 1
    assert asked > 20


@pytest.mark.parametrize("there", [True, False])
def test_phrases_with_more_weight_are_asked_more_often(there):
    """Apart where something fits them and where nothing does."""
    table, hard = record("cup", "hammer"), {phrase.text for phrase in WORLD.needs[::20]}
    asked = []

    def weight(phrase: str, fits: bool) -> float:
        return 50.0 if fits is there and phrase in hard else 1.0

    kinds = {"need": 1} if there else {"absent": 1}
    for talked in conversations_for(table, random.Random(0), 300, "train", kinds=kinds, weight=weight):
        if "phrase" in talked:
            assert bool(talked["turns"][0]["targets"]) is there
            asked.append(talked["phrase"])
    needs = [phrase for phrase in asked if phrase in {phrase.text for phrase in WORLD.needs}]
    assert len(needs) > 40
    assert sum(phrase in hard for phrase in needs) > len(needs) / 2


def test_without_weights_no_phrase_is_told():
    assert not any("phrase" in talked for _, talked in talk("train"))


def test_kinship_comes_from_what_is_trained_alone():
    held = {phrase.text for phrase in WORLD.held_needs}
    counted = [phrase for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties) if "pen" in phrase.fits]
    assert not held & {phrase.text for phrase in counted}
    named = sum(len((phrase.fits | phrase.unsure) - {"pen"}) for phrase in counted)
    assert WORLD.kinship["pen"].total() == named


def test_a_need_marks_every_object_that_fits_it():
    scene = record("cup", "mug", "hammer")
    texts = {phrase.text: phrase.fits for phrase in WORLD.needs}
    rng = random.Random(1)
    for talked in conversations_for(scene, rng, 300, "train"):
        if talked["kind"] != "need":
            continue
        turn = talked["turns"][0]
        said = turn["command"].lower()  # "I am" is contracted before it is lowered
        forms = ((fits, {text.lower().rstrip("."), contract(text).lower().rstrip(".")}) for text, fits in texts.items())
        fitting = [fits for fits, texts in forms if any(text in said for text in texts)]
        expected = {thing["id"] for thing in scene["objects"] if any(thing["class"] in f for f in fitting)}
        assert set(turn["targets"]) == expected, turn


def test_who_is_thirsty_is_shown_every_drink_and_no_glass():
    def thirsty(*labels):
        made = conversations_for(record(*labels), random.Random(2), 400, "train", {"need": 1.0})
        turns = [talked["turns"][0] for talked in made]
        return [turn for turn in turns if contract("I am thirsty.").rstrip(".") in contract(turn["command"])]

    turns = thirsty("milk carton", "beer bottle", "hammer")
    assert turns and all(turn["targets"] == [1, 2] for turn in turns)
    assert not thirsty("milk carton", "glass")


def test_a_command_that_one_could_argue_about_is_not_made():
    scene = record("wine glass", "cup")  # water can be drunk from both, from none as from a glass
    for talked in conversations_for(scene, random.Random(0), 300, "train"):
        assert "drink water from" not in talked["turns"][0]["command"]


def test_the_same_chance_gives_the_same_conversations():
    first = conversations_for(SCENES[3], random.Random(7), 20, "train")
    assert first == conversations_for(SCENES[3], random.Random(7), 20, "train")


def test_every_kind_of_command_is_made_in_both_splits():
    for split in ("train", "test"):
        assert {talked["kind"] for _, talked in talk(split)} == set(KINDS)


def test_phrasings_of_tests_are_never_used_in_training():
    for name, intention in phrasings.INTENTIONS.items():
        assert not set(intention["train"]) & set(intention["test"]), name
        assert intention["test"], name
    assert all(talked["held_out"] for _, talked in talk("test"))
    assert not any(talked["held_out"] for _, talked in talk("train"))


def test_only_the_kinds_that_are_asked_for_are_made():
    made = [
        talked for scene in SCENES[:30] for talked in conversations_for(scene, random.Random(1), 6, "train", {"use": 1})
    ]
    assert made and {talked["kind"] for talked in made} == {"use"}
    with pytest.raises(ConfigError, match="no kind of command is called usage"):
        conversations_for(SCENES[0], random.Random(1), 6, "train", {"usage": 1.0})


def test_what_two_things_are_not_is_said_of_both():
    scene = record("hammer", "hammer", "cup")
    turns = [t["turns"][0] for t in conversations_for(scene, random.Random(3), 60, "train", {"false_premise": 1.0})]
    assert any(turn["answer"] == "The hammers are not like that." for turn in turns)
    assert any(turn["answer"] == "The cup is not like that." for turn in turns)
    assert not any(turn["answer"] == "The hammer is not like that." for turn in turns)


def test_a_colour_is_denied_by_the_one_that_is_seen():
    scene = record("mug", "mug", "towel")
    for thing, colour in zip(scene["objects"], ("red", "blue", "green"), strict=True):
        thing["color"] = colour
    made = conversations_for(scene, random.Random(5), 60, "train", {"false_premise": 1.0})
    answers = {talked["turns"][0]["answer"] for talked in made}
    assert any(answer.startswith("The blue and red mugs are not ") for answer in answers)
    assert any(answer.startswith("The green towel is not ") for answer in answers)
    assert not any(answer.startswith(("The green towel is not green", "There is no")) for answer in answers)


def test_what_has_a_colour_is_one():
    """Questions about colours say "is" and "its"."""
    assert not any(thing.paintable and thing.many for thing in WORLD.things.values())


def test_a_colour_is_asked_of_one_thing_and_told():
    scene = record("mug", "mug", "towel", "hammer")
    for thing, colour in zip(scene["objects"], ("red", "blue", "green", None), strict=True):
        thing["color"] = colour
    for split in ("train", "test"):
        made = conversations_for(scene, random.Random(5), 6, split, {"colour": 1.0})
        turns = [turn for talked in made for turn in talked["turns"]]
        assert len(turns) == 6
        assert {(turn["answer"], *turn["targets"]) for turn in turns} == {("It is the green towel, [SEG].", 3)}


def test_training_says_as_many_colours_truly_as_falsely():
    kinds = {"name": 0.55, "false_premise": 0.45}
    scenes = [record("mug", "towel", "kettle") for _ in range(40)]
    for scene in scenes:
        for thing, colour in zip(scene["objects"], ("red", "blue", "green"), strict=True):
            thing["color"] = colour
    turns = [
        talked["turns"][0]
        for number, scene in enumerate(scenes)
        for talked in conversations_for(scene, random.Random(number), 12, "train", kinds)
    ]
    true = sum(re.search("the (red|blue|green) .*SEG", turn["answer"]) is not None for turn in turns)
    false = sum(re.match("The (red|blue|green) ", turn["answer"]) is not None for turn in turns)
    assert 0.5 < true / false < 2


def test_training_hears_what_is_true_of_two_things_about_as_often_as_what_is_not():
    kinds = {"place": 0.5, "false_premise": 0.5}
    turns = [
        talked["turns"][0]
        for scene in SCENES
        for talked in conversations_for(scene, random.Random(4), 12, "train", kinds)
    ]
    denied = sum(
        " is not " in t["answer"] or " are not " in t["answer"] for t in turns if " like that" not in t["answer"]
    )
    true = sum(bool(t["targets"]) and _names_two(t["command"], t["answer"]) for t in turns)
    assert 0.3 < true / denied < 3


def _names_two(command: str, answer: str) -> bool:
    """The command names what is meant and another class."""
    named = {label for label in CLASSES if f"the {label} " in f"{command} " or f" {label}." in command}
    return len(named) > 1 and any(f"the {label}," in answer for label in named)


def test_every_intention_has_a_dozen_phrasings():
    for name, intention in phrasings.INTENTIONS.items():
        assert len(set(intention["train"])) >= 12, name


def test_content_kept_for_tests_is_never_trained_on():
    trained = {phrase.text for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties)}
    assert not trained & {phrase.text for phrase in WORLD.held_needs}
    assert not set(WORLD.never["train"]) & set(WORLD.never["test"])
    kept = [talked for _, talked in talk("test") if talked["held_out_content"]]
    assert len(kept) > 20


def test_every_class_has_something_that_people_say_when_they_need_it():
    for label in CLASSES:
        said = [p for p in (*WORLD.uses, *WORLD.needs, *WORLD.held_needs, *WORLD.properties) if label in p.fits]
        assert len(said) >= 10, (label, len(said))
        assert WORLD.things[label].because.endswith(".")


def test_classes_that_share_a_name_know_each_other():
    for thing in WORLD.things.values():
        for near in thing.near:
            assert thing.label in WORLD.things[near].near


def test_explanations_give_the_reason_of_the_thing_found():
    explained = [
        (scene, talked["turns"][0])
        for scene, talked in talk("train")
        if talked["turns"][0]["explain"] and len(talked["turns"][0]["targets"]) == 1
    ]
    assert explained
    for scene, turn in explained:
        label = next(thing["class"] for thing in scene["objects"] if thing["id"] == turn["targets"][0])
        assert turn["answer"].endswith(f"[SEG]. {WORLD.things[label].because}")


def test_the_other_one_is_the_other_one():
    pairs = [
        talked
        for _, talked in talk("train")
        if talked["kind"] == "followup" and re.search(r"\bother\b", talked["turns"][1]["command"].lower())
    ]
    assert pairs
    for talked in pairs:
        first, second = talked["turns"]
        assert not set(first["targets"]) & set(second["targets"])


def test_the_tokenizers_text_covers_the_words_of_training():
    def words(text: str) -> set[str]:
        return {word.strip(".,?!:").lower() for word in text.replace("'s ", " 's ").split()}

    known = set().union(*map(words, sentences()))
    said = [turn for _, talked in talk("train") for turn in talked["turns"]]
    missing = set().union(*(words(turn["command"]) | words(turn["answer"]) for turn in said)) - known
    assert not missing


def test_a_class_that_is_not_in_the_table_is_named(tmp_path):
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
def test_a_property_that_there_is_not_is_named(tmp_path, things, opposites, alike, wrong):
    table = tmp_path / "world.yaml"
    text = "things: {}\nopposites: {}\nalike: {}\ngroups: {{}}\nnever: {{}}\n"
    table.write_text(text.format(things, opposites, alike))
    with pytest.raises(ValueError, match=wrong):
        load_world(table)


def test_opposites_and_likeness_are_mutual():
    assert all(WORLD.opposites[other] == place != other for place, other in WORLD.opposites.items())
    for colour, others in WORLD.alike.items():
        assert all(colour in WORLD.alike[other] for other in others), colour


def test_there_are_at_least_50_classes():
    assert len(CLASSES) >= 50


def test_words_written_apart_can_be_asked_and_are_not_trained():
    table = other_words.TABLE
    for intention, texts in table["phrasings"].items():
        known = {field for text in phrasings.INTENTIONS[intention]["train"] for field in fields_of(text)}
        assert all(set(fields_of(text)) <= known for text in texts), intention
        assert not set(texts) & set(phrasings.INTENTIONS[intention]["train"]), intention
    trained = {phrase.text.lower() for phrase in (*WORLD.uses, *WORLD.needs, *WORLD.properties)}
    for kind, phrases in other_words.CONTENT.items():
        assert not {phrase.text.lower() for phrase in phrases} & trained, kind
    made = other_words.OtherSpeaker(record("cup", "hammer", "book"), random.Random(0), "test").talk(
        80, other_words.SHARES
    )
    said = [talked["turns"][0]["command"].lower() for talked in made if talked["kind"] in other_words.CONTENT]
    texts = {phrase.text for phrases in other_words.CONTENT.values() for phrase in phrases}
    forms = {form.lower().rstrip(".") for text in texts for form in (text, contract(text))}
    assert len(said) > 30 and all(any(form in words for form in forms) for words in said)


def fields_of(text: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(text) if field]
