"""Families of models that share LISA's network: LISA, SESAME, READ, LaSagnA, GSVA and CoReS.

They differ in tokens, prompts, and in how a token becomes a mask. A family is data (:class:`Family`). ``config.json``
chooses it: ``lisa.family`` first, then ``architectures[0]``. docs/models.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lisa_ros.errors import ConfigError
from lisa_ros.lisa.prompt import QuestionForms


@dataclass(frozen=True)
class PointSettings:
    """Settings of similarity points (Qian et al., READ, CVPR 2025).

    Args:
        num_points: Most points of one mask.
        t_pos: Cells of at least this similarity, in [0, 1], are positive points.
        t_neg: Cells of at most this similarity are negative points.
        down_sample: Image tokens per side of a cell.

    Raises:
        ValueError: A value is out of its range.
    """

    num_points: int = 30
    t_pos: float = 0.8
    t_neg: float = 0.2
    down_sample: int = 2

    def __post_init__(self) -> None:
        for name in ("num_points", "down_sample"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of the points is {value!r}; it must be a whole number from 1")
        for name in ("t_pos", "t_neg"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"{name} of the points is {value!r}; it must be a number in [0, 1]")
        if self.t_neg >= self.t_pos:
            raise ValueError(f"t_neg of the points is {self.t_neg}; it must be below t_pos, which is {self.t_pos}")

    @classmethod
    def read(cls, settings: Any, known: PointSettings | None = None) -> PointSettings:
        """Settings from a mapping.

        Args:
            settings: Some of the settings, by name.
            known: Has the others; None: the defaults.

        Raises:
            ValueError: It is no mapping, a name is not known, or a value is out of its range.
        """
        names = [one.name for one in fields(cls)]
        if not isinstance(settings, Mapping):
            raise ValueError(f"points is {settings!r}; give a mapping of {', '.join(names)}")
        if unknown := sorted(map(str, set(settings) - set(names))):
            raise ValueError(f"points has no setting '{unknown[0]}'; its settings: {', '.join(names)}")
        return replace(known or cls(), **settings)


@dataclass(frozen=True)
class AnswerForm:
    """A sentence that names targets, as a family was trained to answer with.

    Args:
        opening: Before the first item.
        item: ``{}`` stands for the name. It ends with the mask token.
    """

    opening: str
    item: str


@dataclass(frozen=True)
class Family:
    """What the models of a family have in common.

    Args:
        name: Value of the option ``family``.
        architecture: ``architectures[0]`` in the config.json of the released models.
        mask_token: Stands for a mask in an answer.
        reject_token: Stands for a target that is not in the image; empty for none.
        coarse_token: Stands for a coarse mask, which prompts the mask of the next mask token; empty for none.
        list_tokens: Tokens of ours in the question about a list of classes.
        strips_blanks: Whether white space beside added tokens is removed. A checkpoint may differ:
            ``lisa.added_tokens`` in its config.json is ``strip`` or ``keep``.
        conversation: Name of the conversation template.
        questions: Sentences for a command.
        answers: Sentences without a name, for drafts; the most frequent first.
        openings: Beginnings of an answer that are no part of a name, beside those of ``answers`` and ``named_answers``.
        named_answers: Sentences that name each target.
        separator: Between two items of a named answer.
        closing: After the last item.
        bare_answer: What the references' teacher-forced scores give as the true answer.
        ordered: Whether the k-th item of an answer is about the k-th target.
        points: Similarity points by the width of the language model, the default first; empty for none.
    """

    name: str
    architecture: str
    mask_token: str = "[SEG]"
    reject_token: str = ""
    coarse_token: str = ""
    list_tokens: tuple[str, ...] = ()
    strips_blanks: bool = True
    conversation: str = "llava_v1"
    questions: QuestionForms = field(default_factory=QuestionForms)
    answers: tuple[str, ...] = ()
    openings: tuple[str, ...] = ()
    named_answers: tuple[AnswerForm, ...] = ()
    separator: str = ", "
    closing: str = "."
    bare_answer: str = "[SEG]."
    ordered: bool = False
    points: Mapping[int, PointSettings] = field(default_factory=dict)

    @property
    def answer_tokens(self) -> tuple[str, ...]:
        """Tokens with a meaning in an answer."""
        return tuple(token for token in (self.mask_token, self.reject_token, self.coarse_token) if token)

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens of the family that a tokenizer must have."""
        return (*self.answer_tokens, *self.list_tokens)

    def named_answer(self, form: AnswerForm, names: Sequence[str]) -> str:
        """The sentence that gives a mask for each name."""
        items = self.separator.join(form.item.format(name) for name in names)
        return f"{form.opening} {items}{self.closing}".strip()

    def true_answer(self, text: str) -> str:
        """The answer of a data set, in which ``[SEG]`` stands for a mask, with the tokens of the family."""
        if text == "[SEG].":
            return self.bare_answer
        if any(token in text for token in self.answer_tokens if token != "[SEG]"):
            return text
        return text.replace("[SEG]", f"{self.coarse_token} {self.mask_token}".strip())

    def points_for(self, width: int) -> PointSettings | None:
        """Settings for a language model of this width; None if the family has no similarity points."""
        return self.points.get(width, next(iter(self.points.values()), None))


_SEG = ("Sure, [SEG].", "It is [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG].")
_COARSE_OPENINGS = (
    *("It appears on", "It usually appears on", "It typically appears on", "We can usually find it on"),
    *("It is usually found on", "Sure, we can usually find it on", "Sure, it usually appears on"),
    *("Sure, it typically appears on", "Sure, it appears on", "Sure, it is typically found on"),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("lisa", "LISAForCausalLM", answers=_SEG),
        Family(
            "sesame",
            "SESAMEForCausalLM",
            conversation="v1",
            questions=QuestionForms(
                sentence="{} Please provide a segmentation map for the described area in the image.",
                phrase=(
                    "Can you find {} in this image? If present, provide the segmentation map. If absent, explicitly "
                    "reject and optionally point out similar objects."
                ),
                lower=True,
            ),
            answers=_SEG,
        ),
        Family(
            "read",
            "READForCausalLM",
            conversation="v1",
            bare_answer="Sure, the segmentation result is [SEG].",
            answers=("Sure, the segmentation result is [SEG].", *_SEG),
            # From the reference's source: config.json has none. 4096 is the 7B, 5120 the 13B for ReasonSeg's test set.
            points={4096: PointSettings(), 5120: PointSettings(60, 0.6, 0.2, 1)},
        ),
        Family(
            "lasagna",
            "LaSagnAForCausalLM",
            mask_token="<ins>",
            reject_token="<no_ins>",
            list_tokens=("<semantic>", "<cat_start>", "<cat_end>"),
            questions=QuestionForms(several="<semantic>Segment this image.<cat_start> {} <cat_end>", lower=True),
            bare_answer="<ins>.",
            answers=(
                *("It is <ins>.", "Sure, it is <ins>.", "Sure, <ins>.", "<ins>.", "The result is <ins>."),
                *("The segmentation result is <ins>.", "Sure, the segmentation result is <ins>."),
            ),
            openings=("The segmentation results are", "Sure, the segmentation results are", "The results are"),
            named_answers=(AnswerForm("", "{}<ins>"),),
            separator="",
            closing="",
        ),
        Family(
            "gsva",
            "LisaGSVAForCausalLM",
            reject_token="[REJ]",
            strips_blanks=False,
            questions=QuestionForms(
                phrase="What are {} in this image? Please output segmentation masks.",
                several="What are {} in this image? Please output segmentation masks.",
                lower=True,
            ),
            bare_answer="[SEG]",
            answers=_SEG,
            named_answers=(
                AnswerForm("The segmentation results are", "{} [SEG]"),
                AnswerForm("Sure, they are", "{}:[SEG]"),
                AnswerForm("Sure,", "the mask of {} is [SEG]"),
                AnswerForm("Sure,", "the segmentation of {} is [SEG]"),
                AnswerForm("Sure,", "the referred {} is [SEG]"),
            ),
            ordered=True,
        ),
        Family(
            "cores",
            "CORESForCausalLM",
            coarse_token="[SEG_SEMA]",
            conversation="cores_v1",
            bare_answer="It usually appears on [SEG_SEMA]. It is [SEG].",
            answers=(
                *(f"{opening} [SEG_SEMA]. It is [SEG]." for opening in _COARSE_OPENINGS),
                *(
                    f"{opening} [SEG_SEMA]. The segmentation result is [SEG]."
                    for opening in _COARSE_OPENINGS
                    if not opening.endswith("found on")
                ),
            ),
        ),
    )
}
"""Each family by its name."""


def family_named(name: Any) -> Family:
    """The family of this name.

    Raises:
        ConfigError: There is none. The message lists the names.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        raise ConfigError(f"family is {name!r}; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of(config: Mapping[str, Any]) -> Family:
    """The family that a config.json names; LISA if it names none of another family.

    Raises:
        ConfigError: ``lisa.family`` is not a known family.
    """
    own = config.get("lisa")
    if isinstance(own, Mapping) and own.get("family") is not None:
        return family_named(own["family"])
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    return next((family for family in FAMILIES.values() if family.architecture == first), FAMILIES["lisa"])
