"""From a command to the prompt, the text that the language model reads.

The templates are LLaVA's, with which LISA was trained. The positions of the user's words in the prompt are stored, so
that the tokenizer never reads special tokens such as ``[SEG]`` in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lisa_ros.engine.api import Turn
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.lisa.tokenizer import IMAGE, Span

MASK_REQUEST = "Please output segmentation mask."
NAME_SEPARATOR = ", "
EXPLAIN_REQUEST = "Please output segmentation mask and explain why."


@dataclass(frozen=True)
class Template:
    """Texts that join the turns of a conversation.

    Args:
        open: Before the first question.
        question_end: After each question.
        answer_end: After each answer.
        next: Before each further question.
    """

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
# CoReS: one more sentence for the system, and an example of the reasoning before the first question.
_GUESSES = " To realize segmentation, {who} all possible object it typically appears on and its distinct appearance. "
_EXAMPLE = (
    "USER: What is the blade in this image? Please output segmentation mask. ASSISTANT: It is usually found on a knife "
    "or propeller. It is the flat, cutting or propelling surface. "
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
    "cores_v1": Template(
        (_CHAT + _HELPFUL).format(person="human").rstrip()
        + _GUESSES.format(who="the assistant guesses")
        + _EXAMPLE
        + " USER: ",
        " ASSISTANT:",
        "</s>",
        "USER: ",
    ),
    "cores_llama_2": Template(
        f"[INST] <<SYS>>\n{_LLAMA_2}{_GUESSES.format(who='you guess')}{_EXAMPLE}\n<</SYS>>\n\n",
        " [/INST]",
        " </s>",
        "<s>[INST] ",
    ),
    # For the bundled demo model: every token of a prompt costs time.
    "compact": Template("USER: ", " ASSISTANT:", "</s>", "USER: "),
}


def template(name: str) -> Template:
    """The conversation template with this name.

    Raises:
        ConfigError: There is none. The message lists the names.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"conversation '{name}' is not known; choose one of {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


@dataclass(frozen=True)
class Prompt:
    """The whole text for the language model.

    Args:
        text: The text.
        literal: Spans of characters of the user's words.
    """

    text: str
    literal: tuple[Span, ...] = ()


def build_prompt(
    turns: Sequence[Turn], template: Template, *, im_start_end: bool, answer_tokens: Sequence[str] = ("[SEG]",)
) -> Prompt:
    """Join the turns of a conversation. The placeholder of the image stands before the first question.

    Args:
        turns: Oldest first; the last one may have no answer.
        template: The conversation template.
        im_start_end: Whether ``<im_start>`` and ``<im_end>`` enclose the image.
        answer_tokens: Tokens of the model in an answer; all else in it is literal.
    """
    image = f"<im_start>{IMAGE}<im_end>\n" if im_start_end else f"{IMAGE}\n"
    parts: list[tuple[str, bool]] = []
    for index, turn in enumerate(turns):
        parts.append((template.open + image if index == 0 else template.next, False))
        parts += _question_parts(turn)
        parts.append((template.question_end, False))
        if turn.answer is not None:
            parts += [(" ", False), *_answer_parts(turn.answer, answer_tokens), (template.answer_end, False)]
    return _join(parts)


def _question_parts(turn: Turn) -> list[tuple[str, bool]]:
    parts, begin = [], 0
    for span in [(0, len(turn.question))] if turn.literal is None else turn.literal:
        parts += [(turn.question[begin : span[0]], False), (turn.question[span[0] : span[1]], True)]
        begin = span[1]
    return [*parts, (turn.question[begin:], False)]


def _answer_parts(answer: str, tokens: Sequence[str]) -> list[tuple[str, bool]]:
    """An answer may repeat the user's words, so all of it but the model's tokens is literal."""
    return [(part, part not in tokens) for part in re.split(f"({'|'.join(map(re.escape, tokens))})", answer)]


def _join(parts: Iterable[tuple[str, bool]]) -> Prompt:
    text, literal = "", []
    for part, is_literal in parts:
        if is_literal and part:
            literal.append((len(text), len(text) + len(part)))
        text += part
    return Prompt(text, tuple(literal))


@dataclass(frozen=True)
class QuestionForms:
    """The sentences that a checkpoint was trained on; ``{}`` stands for the command.

    Args:
        sentence: For a command that is a sentence.
        phrase: For a command that is a noun phrase.
        explain: For a command with ``explain``.
        several: For the names of several targets, joined by ``, ``; empty if each target is a command of its own.
        lower: Whether names are written in lower case.

    Raises:
        ValueError: A form does not have exactly one ``{}``, or ``lower`` is not a bool.
    """

    sentence: str = "{} " + MASK_REQUEST
    phrase: str = "What is {} in this image? " + MASK_REQUEST
    explain: str = "{} " + EXPLAIN_REQUEST
    several: str = ""
    lower: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.lower, bool):
            raise ValueError(f"question form lower is {self.lower!r}; it must be true or false")
        for name in ("sentence", "phrase", "explain", *(["several"] if self.several else [])):
            form = getattr(self, name)
            if not isinstance(form, str) or form.count("{}") != 1 or re.search(r"[{}]", form.replace("{}", "")):
                raise ValueError(f"question form {name} {form!r}: it must be a text with one {{}}")


def phrase_command(command: str, forms: QuestionForms, *, explain: bool = False, follow_up: bool = False) -> str:
    """Put a command into a sentence that the model was trained on.

    LISA has one form for noun phrases ("the red cup") and one for sentences ("I am thirsty."). A command that already
    asks for a mask is not changed. A follow-up ("no, the other one") is always a sentence.

    Args:
        command: The user's words.
        forms: Of the checkpoint.
        explain: Ask for the reason too.
        follow_up: Whether there are earlier turns.

    Raises:
        CommandError: The command is empty or not text.
    """
    command = " ".join(command.split())
    check_words(command)
    if _ASKS_FOR_A_MASK.search(command):
        return command if not explain or "explain" in command.lower() else f"{command} Please explain why."
    if explain:
        return forms.explain.format(_finish(command))
    if _is_phrase(command) and not follow_up:
        return forms.phrase.format(_cased(command.rstrip("."), forms))
    return forms.sentence.format(_finish(command))


def names_of(targets: Sequence[str], forms: QuestionForms) -> list[str]:
    """Targets as they stand in a question and its answer: single blanks, no outer full stop, in the case of the forms.

    Raises:
        CommandError: A name has a comma between words, which joins two names, or has no words.
    """
    names = []
    for target in targets:
        check_words(target)
        name = " ".join(target.split()).strip(" .")
        if re.search(r",\s|\s,|,$", name):
            raise CommandError(f"the target {target!r} has a comma; give each target by itself")
        names.append(_cased(name, forms))
    return names


def question_about(names: Sequence[str], forms: QuestionForms) -> Turn:
    """The question about several targets at once.

    Args:
        names: From :func:`names_of`.
        forms: Of the checkpoint, with the form ``several``.

    Returns:
        A turn without an answer. Only the names in it are literal.
    """
    before, _, after = forms.several.partition("{}")
    literal, begin = [], len(before)
    for name in names:
        literal.append((begin, begin + len(name)))
        begin += len(name) + len(NAME_SEPARATOR)
    return Turn(f"{before}{NAME_SEPARATOR.join(names)}{after}", literal=tuple(literal))


def check_words(command: str) -> None:
    """Check a command.

    Raises:
        CommandError: It is not text, or has no letter and no digit.
    """
    if not isinstance(command, str):
        raise CommandError(f"the command is {command!r}; it must be text")
    for position, character in enumerate(command):
        if "\ud800" <= character <= "\udfff":  # what Python makes of bytes that are not UTF-8
            raise CommandError(
                f"the command has an invalid character at position {position} (U+{ord(character):04X}); send UTF-8"
            )
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


def _cased(name: str, forms: QuestionForms) -> str:
    return name.lower() if forms.lower else name


def _finish(sentence: str) -> str:
    return sentence if sentence[-1] in ".?!" else sentence + "."
