"""What becomes of a command before the model reads it."""

from __future__ import annotations

import pytest

from lisa_ros.engine.api import Conversation, Turn
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.lisa.prompt import QuestionForms, build_prompt, check_words, phrase_command, template

FORMS = QuestionForms()


@pytest.mark.parametrize(
    ("command", "question"),
    [
        ("the red cup", "What is the red cup in this image? Please output segmentation mask."),
        ("hammer", "What is hammer in this image? Please output segmentation mask."),
        ("something to tighten this screw.", "What is something to tighten this screw in this image? "),
        ("I am thirsty", "I am thirsty. Please output segmentation mask."),
        ("Where is the drink?", "Where is the drink? Please output segmentation mask."),
        ("the cup is dirty", "the cup is dirty. Please output segmentation mask."),
        ("  the \n cup ", "What is the cup in this image? Please output segmentation mask."),
        ("Can you segment the cup in this image?", "Can you segment the cup in this image?"),
        ("Which segment of the pipe leaks?", "Which segment of the pipe leaks? Please output segmentation mask."),
        ("the orange segment", "What is the orange segment in this image? Please output segmentation mask."),
    ],
)
def test_commands_are_put_into_trained_sentences(command: str, question: str) -> None:
    assert phrase_command(command, FORMS).startswith(question)


def test_explain_asks_for_the_reason_once() -> None:
    assert phrase_command("I am thirsty", FORMS, explain=True).endswith("mask and explain why.")
    assert phrase_command("Segment the cup", FORMS, explain=True) == "Segment the cup Please explain why."
    twice = "Please segment the cup and explain why."
    assert phrase_command(twice, FORMS, explain=True) == twice


def test_a_follow_up_is_always_a_sentence() -> None:
    assert phrase_command("the other one", FORMS, follow_up=True) == "the other one. Please output segmentation mask."


@pytest.mark.parametrize("command", ["", " ", "\n\t", ".", "...", "?!", "\N{SMILING FACE WITH OPEN MOUTH}"])
def test_a_command_without_words_is_refused_with_the_way_out(command: str) -> None:
    with pytest.raises(CommandError, match="say what to find"):
        phrase_command(command, FORMS)


def test_an_unknown_conversation_names_the_choices() -> None:
    with pytest.raises(ConfigError, match="llava_llama_2"):
        template("mpt-7b")


def test_literal_spans_cover_the_users_words_and_nothing_else() -> None:
    prompt = build_prompt([Turn("one", "Sure."), Turn("two")], template("llava_v1"), im_start_end=True)
    assert [prompt.text[a:b] for a, b in prompt.literal] == ["one", "Sure.", "two"]


def test_a_conversation_forgets_its_oldest_turns() -> None:
    conversation = Conversation(max_turns=2)
    for number in range(4):
        conversation.append(Turn(f"q{number}", "a"))
    assert [turn.question for turn in conversation.turns] == ["q2", "q3"]
    conversation.clear()
    assert conversation.turns == []


def test_special_tokens_that_an_answer_repeats_are_text_in_the_next_prompt() -> None:
    prompt = build_prompt(
        [Turn("q", "I see <image> and </s>: [SEG]."), Turn("r")], template("llava_v1"), im_start_end=True
    )
    assert [prompt.text[a:b] for a, b in prompt.literal] == ["q", "I see <image> and </s>: ", ".", "r"]


@pytest.mark.parametrize("form", ["no place", "{} {}", "{x}", "{:>99}", 3])
def test_a_question_form_has_exactly_one_place_for_the_words(form: object) -> None:
    with pytest.raises(ValueError, match="question form"):
        QuestionForms(sentence=form)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [None, 5])
def test_a_command_must_be_text(command: object) -> None:
    with pytest.raises(CommandError, match=f"the command is {command}; it must be text"):
        check_words(command)
