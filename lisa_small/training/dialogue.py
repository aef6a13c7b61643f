"""Conversations as the language stages read them: ids, what of them is trained, and what their words are about."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lisa_ros.data.scene_records import ConversationRecord, ObjectRecord
from lisa_ros.engine.api import Turn
from lisa_ros.lisa.prompt import QuestionForms, Template, build_prompt, phrase_command
from lisa_ros.lisa.tokenizer import IMAGE_ID, Tokenizer


@dataclass
class Suffix:
    """One conversation after the image: ids (T,), the weight of each in the loss, and the masks its ``[SEG]`` ask for.

    weights: 0 for what a person said, 1 for answers; in them NAMED and COLOURED for what is meant and its colour, and
    VERDICT where an answer turns to "here it is" or "it is not here".
    segs: position (in ids) of each ``[SEG]``; targets: the object ids of each. presence: position (in ids) of a token
    that says whether what was named is there, and whether it is. nouns: positions (in ids) of tokens that name things
    or their colour, and the object ids that the state there is to point at. meant: the same for the tokens that say
    what is meant, where the state before points. asked: those of them with which the answer begins, and what the
    question's nouns named beside what is meant, or at all where that is all. phrase: what describes the thing, where
    the conversation says so.
    """

    ids: list[int]
    weights: list[float]
    segs: list[int] = field(default_factory=list)
    targets: list[list[int]] = field(default_factory=list)
    presence: list[tuple[int, bool]] = field(default_factory=list)
    nouns: list[tuple[int, list[int]]] = field(default_factory=list)
    meant: list[tuple[int, list[int]]] = field(default_factory=list)
    asked: list[tuple[int, list[int]]] = field(default_factory=list)
    kind: str = ""
    phrase: str = ""


DESCRIBED = ("use", "need", "property")
"""Kinds of conversations that describe what is meant."""

NAMED = 2.0
"""Weight of the token with which an answer begins to name what is meant."""

COLOURED = 4.0
"""Weight of the token that says the colour of what is there: one among many, and what is false of it hangs on it."""

VERDICT = 3.0
"""Weight of the one token of an answer that says whether the thing is there."""


def name_first(answer: str) -> str:
    """What is denied is named before: "There is no cup here." to "It is the cup that is not here.", and "The cup is not
    like that." to "It is the cup that is not like that."

    A small model cannot look for a thing before it has said which. Other answers are left alone.
    """
    if match := re.fullmatch(r"There (is|are) no (.+) here\.", answer):
        verb, name, rest = match[1], match[2], "here"
    elif match := re.fullmatch(r"The (.+?) (is|are) not (.+)\.", answer):
        name, verb, rest = match.groups()
    else:
        return answer
    return f"{'It is' if verb == 'is' else 'They are'} the {name} that {verb} not {rest}."


@dataclass(frozen=True)
class Speech:
    """How conversations become ids."""

    tokenizer: Tokenizer
    template: Template
    questions: QuestionForms
    _phrases: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Ids of words that were looked for: they are looked for again and again."""

    def prefix(self) -> tuple[list[int], list[int]]:
        """Ids before and after the image that all conversations share: ``<s>``, USER:, <im_start> and <im_end>."""
        ids = self.tokenizer.encode_prompt(build_prompt([Turn("x")], self.template, im_start_end=True).text)
        at = ids.index(IMAGE_ID)
        return ids[:at], ids[at + 1 : at + 2]

    def suffix(
        self, conversation: ConversationRecord, rng: random.Random | None = None, objects: Sequence[ObjectRecord] = ()
    ) -> Suffix:
        """The conversation's ids after the shared prefix. rng: where given, commands are typed hastily at times.
        objects: of the scene, so that words can point at them."""
        before, after = self.prefix()
        skip = len(before) + 1 + len(after)
        turns: list[Turn] = []
        result = Suffix([], [])
        for number, turn in enumerate(conversation["turns"]):
            command = _typed(turn["command"], rng) if rng else turn["command"]
            question = phrase_command(command, self.questions, explain=bool(turn.get("explain")), follow_up=number > 0)
            turns.append(Turn(question))
            question_at = len(result.ids)
            begin = len(self._ids(turns)) - skip
            answer = name_first(turn["answer"])
            turns[-1] = Turn(question, answer)
            ids = self._ids(turns)[skip:]
            result.weights += [0.0] * (begin - len(result.weights))
            result.weights += [1.0] * (len(ids) - begin)
            segs = [i for i in range(begin, len(ids)) if ids[i] == self.tokenizer.id_of("[SEG]")]
            verdict = None
            if at := segs or self._denials(ids, begin):
                verdict = at[0] - 1 if segs else at[0]
                result.weights[verdict] = VERDICT
                result.presence.append((verdict, bool(segs)))
            wanted = [list(turn["targets"])] if turn["targets"] else []
            if len(segs) != len(wanted):
                raise ValueError(f"{len(segs)} [SEG] for {len(wanted)} masks in {turn['answer']!r}")
            result.ids, result.segs, result.targets = ids, result.segs + segs, result.targets + wanted
            self._point(result, objects, question_at, begin, verdict, segs)
        result.kind, result.phrase = conversation.get("kind", ""), conversation.get("phrase", "")
        return result

    def forget(self, suffix: Suffix, share: float, rng: random.Random) -> None:
        """Make a ``share`` (0 to 1) of the tokens before answers unknown in ``suffix``, where a use, a need or a
        property describes a thing that is there: other words say it, too. A name or a place hangs on one word."""
        if share and suffix.kind in DESCRIBED:
            unknown, heard = self.tokenizer.unk_id, zip(suffix.ids, suffix.weights, strict=True)
            suffix.ids = [unknown if not weight and rng.random() < share else i for i, weight in heard]

    def _point(
        self,
        result: Suffix,
        objects: Sequence[ObjectRecord],
        question_at: int,
        begin: int,
        verdict: int | None,
        segs: list[int],
    ) -> None:
        """Note where the newest turn, asked from ``question_at`` and answered from ``begin`` on, names things that are
        there: in the question all of the class, or of the colour, in the answer up to its verdict those that are meant
        or, where something is denied of them, all of the class."""
        if verdict is None:
            return
        by_class: dict[str, list[int]] = {}
        by_colour: dict[str, list[int]] = {}
        for thing in objects:
            by_class.setdefault(thing["class"], []).append(thing["id"])
            if colour := thing.get("color"):
                by_colour.setdefault(colour, []).append(thing["id"])
        nouns: list[tuple[int, list[int]]] = []
        named: list[tuple[int, list[int]]] = []
        for label, members in by_class.items():
            nouns += [(last, members) for _, last in self._names(result.ids, question_at, begin, label)]
            chosen = [i for i in members if i in result.targets[-1]] if segs else members
            if chosen:
                places = self._names(result.ids, begin, verdict, label)
                named += [(first, chosen) for first, _ in sorted(places)[:1]]
        coloured = [
            (last, members)
            for colour, members in by_colour.items()
            for _, last in self._find(result.ids, question_at, begin, colour)
        ]
        result.nouns += nouns + coloured
        if not named:
            return
        for colour in by_colour:
            for first, _ in self._find(result.ids, begin, verdict, colour):
                result.weights[first] = COLOURED
        for first, _ in named:
            result.weights[first] = NAMED
        opening = min(first for first, _ in named)
        meant = sorted({i for _, members in named for i in members})
        result.meant += [(at, meant) for at in (*range(begin, opening), verdict, *segs)] + named
        asked = {i for _, members in nouns for i in members}
        beside = {i for _, members in nouns if not set(members) & set(meant) for i in members}
        if about := sorted(beside or asked):
            result.asked += [(at, about) for at in (*range(begin, opening + 1), verdict)]

    def _names(self, ids: list[int], begin: int, end: int, label: str) -> list[tuple[int, int]]:
        """First and last position of every "label" or "labels" in ids[begin:end]."""
        return [*self._find(ids, begin, end, label), *self._find(ids, begin, end, label + "s")]

    def _find(self, ids: list[int], begin: int, end: int, words: str) -> list[tuple[int, int]]:
        """First and last position of every ``words`` in ids[begin:end]."""
        phrase = self._phrase(words)
        length = len(phrase)
        return [(i, i + length - 1) for i in range(begin, end - length + 1) if ids[i : i + length] == phrase]

    def _phrase(self, words: str) -> list[int]:
        if words not in self._phrases:
            self._phrases[words] = self.tokenizer.encode(words)
        return self._phrases[words]

    def _denials(self, ids: list[int], begin: int) -> list[int]:
        """Where "that is not" or "that are not" begins."""
        phrases = [self._phrase(f"that {verb} not") for verb in ("is", "are")]
        return [i for i in range(begin, len(ids)) if any(ids[i : i + len(phrase)] == phrase for phrase in phrases)]

    def _ids(self, turns: list[Turn]) -> list[int]:
        return self.tokenizer.encode_prompt(build_prompt(turns, self.template, im_start_end=True).text)


def _typed(command: str, rng: random.Random) -> str:
    """Sometimes without capitals, without the full stop, or with a polite word."""
    if rng.random() < 0.3:
        command = command.lower()
    if rng.random() < 0.3:
        command = re.sub(r"[.!?]+$", "", command)
    return command
