"""From what a person says to the text the language model reads.

The templates are LLaVA's, as LISA was trained on them; a person's words inside them are marked, so that the tokenizer
never takes them for tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lisa_ros.engine.api import Turn
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.lisa.tokenizer import IMAGE, Span

MASK_REQUEST = "Please output segmentation mask."
EXPLAIN_REQUEST = "Please output segmentation mask and explain why."


@dataclass(frozen=True)
class Template:
    """How turns become one text: what stands before the first question, after each question, after each answer, and
    before each further question."""

    open: str
    question_end: str
    answer_end: str
    next: str


_CHAT = "A chat between a curious {person} and an artificial intelligence assistant. "
_HELPFUL = "The assistant gives helpful, detailed, and polite answers to the {person}'s questions. "
_LLAMA_2 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)

TEMPLATES: dict[str, Template] = {
    "llava_v1": Template((_CHAT + _HELPFUL).format(person="human") + "USER: ", " ASSISTANT:", "</s>", "USER: "),
    "v1": Template((_CHAT + _HELPFUL).format(person="user") + "USER: ", " ASSISTANT:", "</s>", "USER: "),
    "llava_llama_2": Template(
        f"[INST] <<SYS>>\n{_LLAMA_2}\n<</SYS>>\n\n",
        " [/INST]",
        " </s>",
        "<s>[INST] ",
    ),
    # For the bundled demo model: every token of a prompt costs time.
    "compact": Template("USER: ", " ASSISTANT:", "</s>", "USER: "),
}


def template(name: str) -> Template:
    """The conversation template called ``name``. Raises ConfigError naming the choices."""
    if name not in TEMPLATES:
        raise ConfigError(f"conversation '{name}' is not known; choose one of {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


@dataclass(frozen=True)
class Prompt:
    """The whole text for the language model. ``literal``: spans of characters that a person typed."""

    text: str
    literal: tuple[Span, ...] = ()


def build_prompt(turns: Sequence[Turn], template: Template, *, im_start_end: bool) -> Prompt:
    """Put ``turns`` into ``template``; the image goes before the first question, as LISA was trained."""
    image = f"<im_start>{IMAGE}<im_end>\n" if im_start_end else f"{IMAGE}\n"
    parts: list[tuple[str, bool]] = []
    for index, turn in enumerate(turns):
        parts.append((template.open + image if index == 0 else template.next, False))
        parts.append((turn.question, True))
        parts.append((template.question_end, False))
        if turn.answer is not None:
            parts += [(" ", False), *_answer_parts(turn.answer), (template.answer_end, False)]
    return _join(parts)


def _answer_parts(answer: str) -> list[tuple[str, bool]]:
    """An answer may repeat what a person said, so all of it but its ``[SEG]`` is literal."""
    return [(part, part != "[SEG]") for part in re.split(r"(\[SEG\])", answer)]


def _join(parts: Iterable[tuple[str, bool]]) -> Prompt:
    text, literal = "", []
    for part, is_literal in parts:
        if is_literal and part:
            literal.append((len(text), len(text) + len(part)))
        text += part
    return Prompt(text, tuple(literal))


@dataclass(frozen=True)
class QuestionForms:
    """The sentences a checkpoint was trained to be asked in; ``{}`` stands for the person's words."""

    sentence: str = "{} " + MASK_REQUEST
    phrase: str = "What is {} in this image? " + MASK_REQUEST
    explain: str = "{} " + EXPLAIN_REQUEST

    def __post_init__(self) -> None:
        for name, form in vars(self).items():
            if not isinstance(form, str) or form.count("{}") != 1 or re.search(r"[{}]", form.replace("{}", "")):
                raise ValueError(f"question form {name} {form!r}: it must be a text with one {{}}")


def phrase_command(command: str, forms: QuestionForms, *, explain: bool = False, follow_up: bool = False) -> str:
    """The question a model was trained on, from a command as people speak.

    A noun phrase ("the red cup") and a sentence ("I am thirsty.") get LISA's two forms; a command that asks for a mask
    already is left alone. A follow-up ("no, the other one") is never a phrase to look up. Raises CommandError for an
    empty command.
    """
    command = " ".join(command.split())
    check_words(command)
    if _ASKS_FOR_A_MASK.search(command):
        return command if not explain or "explain" in command.lower() else f"{command} Please explain why."
    if explain:
        return forms.explain.format(_finish(command))
    if _is_phrase(command) and not follow_up:
        return forms.phrase.format(command.rstrip("."))
    return forms.sentence.format(_finish(command))


def check_words(command: str) -> None:
    """Raise CommandError unless the command is text with a letter or a digit."""
    if not isinstance(command, str):
        raise CommandError(f"the command is {command!r}; it must be text")
    for position, character in enumerate(command):
        if "\ud800" <= character <= "\udfff":  # what Python makes of bytes that are no UTF-8
            raise CommandError(f"the command is no text at position {position} (U+{ord(character):04X}); send UTF-8")
    if not any(character.isalnum() for character in command):
        problem = f"is {command.strip()!r}: it has no words" if command.strip() else "is empty"
        raise CommandError(f"the command {problem}; say what to find, for example 'the thing to drink from'")


_ASKS_FOR_A_MASK = re.compile(r"^(please |now |(can|could|will|would) you (please )?)?segment |segmentation mask", re.I)
_PHRASE_BEGINS = {
    "a",
    "an",
    "the",
    "all",
    "every",
    "each",
    "both",
    "any",
    "some",
    "something",
    "anything",
    "my",
    "your",
}
_VERBS = {"is", "are", "was", "am", "can", "do", "does", "has", "have", "should", "must", "will", "please"}


def _is_phrase(command: str) -> bool:
    words = command.lower().rstrip(".").split()
    names_a_thing = words[0] in _PHRASE_BEGINS or len(words) == 1
    return names_a_thing and not _VERBS & set(words[:4]) and command[-1] not in "?!"


def _finish(sentence: str) -> str:
    return sentence if sentence[-1] in ".?!" else sentence + "."
