"""The engine of extractive models: a frame, its proposals and a command in; an answer whose words are masks out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import (
    HISTORY,
    PROPOSALS,
    Answer,
    Ask,
    EngineInfo,
    Event,
    MaskCrop,
    OnEvent,
    Proposals,
    Region,
    Regions,
    ShouldStop,
    Stage,
    Timings,
    Token,
    crop_mask,
)
from lisa_ros.engine.contract import check_rgb
from lisa_ros.errors import Cancelled, CommandError, NumericalError
from lisa_ros.extractive.drafts import Drafts
from lisa_ros.extractive.mentions import ExtractedTurn, MentionText, mention_text, messages_of, with_names
from lisa_ros.extractive.reader import Reader, Seen, Vocabulary
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.out_of_memory import out_of_memory
from lisa_ros.lisa.prompt import check_words, phrase_command
from lisa_ros.lisa.threads import one_thread, wants_one_thread
from lisa_ros.lisa.tokenizer import IMAGE_ID

Propose = Callable[[NDArray[np.uint8], Seen], Proposals]
"""From a frame, and what the reader sees of it, to its proposals."""


@dataclass(eq=False)
class Choices:
    """The proposals of a frame, ready to be chosen from.

    Args:
        proposals: As they were given or proposed.
        count: N.
        vocabulary: The words and their rows.
    """

    proposals: Proposals
    count: int
    vocabulary: Vocabulary


@dataclass(eq=False)
class EncodedPicture:
    """An encoded frame. It serves any number of commands.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        seen: Image tokens and features.
        cache: Keys and values of the last conversation about this frame.
        own: The proposals of the engine's own proposer, after the first command that needs them.
        choices: Those of the last command.
    """

    rgb: NDArray[np.uint8]
    seen: Seen
    cache: PrefixCache
    own: Proposals | None = None
    choices: Choices | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frame, pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


@dataclass
class _Draft:
    """An answer while it is generated. typed: proposals that the question names (parity mode)."""

    choices: Choices
    on_event: OnEvent
    begun: float
    most: int
    details: bool
    typed: tuple[int, ...] = ()
    ids: list[int] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)  # each (V + N,)
    regions: dict[int, Region] = field(default_factory=dict)  # by proposal
    decode_s: float = 0.0
    first_mask_s: float = 0.0


class Extractor:
    """The engine.

    Calls are made one at a time, since each encoded frame has one key-value cache.

    Args:
        reader: The language model.
        precision: Name of the number format, for ``info``.
        propose: Makes proposals where a command brings none; None: such a command is an error.
        parity: As the reference: phantom rows can be chosen, and mask words in a question count.
    """

    def __init__(self, reader: Reader, precision: str, propose: Propose | None = None, *, parity: bool = False):
        self.reader = reader
        self.precision = precision
        self._propose = propose
        self._parity = parity
        self._drafts = Drafts()
        self._one_thread = wants_one_thread(reader.hidden_size, reader.device)

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(self.reader.name, str(self.reader.device), self.precision, frozenset({HISTORY, PROPOSALS}))

    @torch.inference_mode()
    def encode(self, rgb: NDArray[np.uint8]) -> EncodedPicture:
        """Encode a frame once, for any number of commands.

        Args:
            rgb: uint8 (H, W, 3), RGB. Copied unless it is read-only.

        Raises:
            ImageError: ``rgb`` is not such an array.
            OutOfMemory: The device has too little memory.
        """
        check_rgb(rgb)
        own = rgb.copy() if rgb.flags.writeable else rgb
        with out_of_memory("encoding an image"):
            return EncodedPicture(own, self.reader.see(own), self.reader.new_cache())

    def ask(
        self,
        encoded: EncodedPicture,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
    ) -> Answer:
        """Answer a command about a frame by greedy decoding.

        Args:
            encoded: Result of :meth:`encode`.
            ask: The command, with or without proposals.
            on_event: Called with each Stage, Token and Regions. A region follows the text up to its first mention.
            should_stop: Called between tokens and before each long step.
            details: Fill :attr:`Answer.details`: ``answer_ids`` (list of int, with the id that ends an answer),
                ``step_logits`` (T, V + N) float32, before any id is excluded, and ``proposal_ids`` (list of int, from
                0), one for each region.

        Returns:
            The answer. Without masks in the proposals its regions are empty.

        Raises:
            CommandError: The command or the proposals cannot be used.
            Cancelled: ``should_stop`` returned True.
            NumericalError: The model computed NaN or infinite numbers.
            OutOfMemory: The device has too little memory.
        """
        begun = time.perf_counter()
        on_event, stop = on_event or _ignore, should_stop or _never
        question = self._question(ask, follow_up=ask.history is not None and bool(ask.history.turns))
        with out_of_memory("answering a command"), torch.inference_mode():
            choices = self._choices(encoded, ask.proposals, on_event, stop)
            if ask.history is not None and not self.reader.reads_mask_words and not ask.verbatim:
                question = with_names(question, ask.history.turns, choices.proposals)
            ids, dropped = self._prompt_ids(question, ask, choices)
            draft = _Draft(choices, on_event, begun, ask.mask_limit, details, self._typed(ids, choices))
            on_event(Stage("reading"))
            text = self._generate(encoded, draft, ids, ask.max_new_tokens, stop)
        if ask.history is not None:
            del ask.history.turns[:dropped]
            ask.history.append(
                ExtractedTurn(question, text.text, mentions=text.mentions, marked=text.marked, source=choices.proposals)
            )
        return self._answer(draft, text)

    # --- proposals ---

    @torch.inference_mode()
    def proposals(self, encoded: EncodedPicture) -> Proposals:
        """The engine's own proposals of a frame, made at the first call and kept with it. Their order never changes.

        Args:
            encoded: Result of :meth:`encode`.

        Raises:
            CommandError: The engine proposes nothing itself.
        """
        if self._propose is None:
            raise CommandError(
                f"{self.reader.name} chooses among proposals and makes none itself; give Ask.proposals with the "
                "command, or load it with option proposer=sam"
            )
        if encoded.own is None:
            encoded.own = self._propose(encoded.rgb, encoded.seen)
        return encoded.own

    def _choices(
        self, encoded: EncodedPicture, given: Proposals | None, on_event: OnEvent, stop: ShouldStop
    ) -> Choices:
        """The command's proposals, or the engine's own, ready to be chosen from. Those of the last command are kept."""
        if given is None and encoded.own is None:
            on_event(Stage("encoding"))
            if stop():
                raise Cancelled("canceled before masks were proposed")
        proposals = self.proposals(encoded) if given is None else given
        if encoded.choices is None or encoded.choices.proposals is not proposals:
            count = count_of(proposals, encoded.size)
            vocabulary = self.reader.vocabulary(encoded.rgb, encoded.seen, proposals)
            encoded.choices = Choices(proposals, count, vocabulary)
            # What the cache holds of other proposals means nothing now.
            ids, first = encoded.cache.tokens, vocabulary.first
            encoded.cache.truncate(next((at for at, i in enumerate(ids) if i >= first), len(ids)))
        return encoded.choices

    # --- the prompt ---

    def _question(self, ask: Ask, follow_up: bool) -> str:
        if ask.verbatim:
            check_words(ask.text)
            return ask.text
        return phrase_command(ask.text, self.reader.questions, follow_up=follow_up)

    def _prompt_ids(self, question: str, ask: Ask, choices: Choices) -> tuple[list[int], int]:
        """Ids of the prompt, and the number of old turns that did not fit."""
        past = list(ask.history.turns) if ask.history is not None else []
        limit = self.reader.max_positions
        room = limit - min(ask.max_new_tokens, limit // 4)
        for dropped in range(len(past) + 1):
            messages = messages_of(past[dropped:], question, choices.proposals, literal=not self._parity)
            ids = self.reader.prompt(messages, choices.count)
            if len(ids) <= room:
                return ids, dropped
        raise CommandError(
            f"with this command the prompt has {len(ids)} tokens; {self.reader.name} reads at most {room}: send a "
            "shorter one"
        )

    def _typed(self, ids: Sequence[int], choices: Choices) -> tuple[int, ...]:
        """The reference takes mask words of the prompt for a part of the answer."""
        if not self._parity:
            return ()
        first = choices.vocabulary.first
        return tuple(dict.fromkeys(i - first for i in ids if first <= i < choices.vocabulary.end))

    # --- the answer ---

    def _generate(
        self, encoded: EncodedPicture, draft: _Draft, prompt: list[int], max_new_tokens: int, stop: ShouldStop
    ) -> MentionText:
        """Greedy decoding with drafts, to the end of the answer or the last token.

        Each pass also reads how an earlier answer went on. The model's own choices are taken up to the first one that
        differs, so the ids are those of greedy decoding without drafts.
        """
        cache, vocabulary, answer = encoded.cache, draft.choices.vocabulary, draft.ids
        cache.truncate(min(cache.common_prefix(prompt), len(prompt) - 1))
        limit = min(max_new_tokens, self.reader.max_positions - len(prompt))
        text = self._take(encoded, draft, None)
        while len(answer) < limit:
            if stop():
                raise Cancelled("canceled before the answer was complete")
            drafted = self._drafts.continuation(answer)[: limit - len(answer) - 1]
            pending = (prompt + answer)[len(cache.tokens) :] + drafted
            with one_thread(self._one_thread):
                hidden = self._read(encoded, pending, vocabulary)[-len(drafted) - 1 :]
                logits = vocabulary.logits(hidden).float()  # (P + 1, V + N)
            if not answer:
                draft.on_event(Stage("generating"))
            for position, step in enumerate(logits):
                answer.append(self._chosen(draft, step))
                if answer[-1] == self.reader.end_id:
                    self._drafts.learn(answer, vocabulary.first)
                    return text
                text = self._take(encoded, draft, step)
                if position == len(drafted) or answer[-1] != drafted[position]:
                    break
            cache.truncate(len(prompt) + len(answer) - 1)
        return text

    def _chosen(self, draft: _Draft, logits: Tensor) -> int:
        """The most likely id; phantom rows are excluded from ``logits`` (V + N,) in place."""
        if draft.details:
            draft.logits.append(logits.cpu().numpy().copy())
        if not self._parity:
            logits[draft.choices.vocabulary.end :] = -torch.inf
        highest, token = logits.max(-1)  # of a NaN the maximum is NaN
        if not bool(highest.isfinite()):
            raise NumericalError(
                f"the model's logits are not finite (precision {self.precision}): numbers overflowed or the weights "
                "are broken; use precision fp32, or another checkpoint"
            )
        return int(token)

    def _read(self, encoded: EncodedPicture, ids: list[int], vocabulary: Vocabulary) -> Tensor:
        """Hidden states (len(ids), H) of ids that follow those in the cache."""
        wanted = ids.count(IMAGE_ID)
        tokens = encoded.seen.tokens[0, -wanted:] if wanted else None  # the first ones may be in the cache
        hidden = self.reader.read(torch.tensor(ids, device=self.reader.device), vocabulary, tokens, encoded.cache)
        encoded.cache.tokens.extend(ids)
        return hidden

    def _take(self, encoded: EncodedPicture, draft: _Draft, logits: Tensor | None) -> MentionText:
        """The text with the newest token, and the region of a proposal that is mentioned for the first time."""
        texts, mentioned = self.reader.pieces(draft.ids, draft.choices.count)
        text = mention_text(texts, mentioned, draft.most - len(draft.typed))
        if logits is None:
            for index in draft.typed:
                draft.regions[index] = self._region(encoded, draft, index, 1.0, ())
            return text
        draft.on_event(Token(text.text))
        for index, spans in zip(text.order, text.spans, strict=True):
            if index not in draft.regions:
                probability = float(logits.softmax(-1)[draft.choices.vocabulary.first + index])
                draft.regions[index] = region = self._region(encoded, draft, index, probability, spans)
                draft.first_mask_s = draft.first_mask_s or time.perf_counter() - draft.begun
                draft.on_event(Regions([region]))
        return text

    def _region(
        self, encoded: EncodedPicture, draft: _Draft, index: int, probability: float, spans: Sequence[tuple[int, int]]
    ) -> Region:
        """score: probability of the proposal's row, times the proposal's own score."""
        begun = time.perf_counter()
        proposals = draft.choices.proposals
        quality = 1.0 if proposals.scores is None else float(proposals.scores[index])
        score = probability * min(max(quality, 0.0), 1.0)
        phrase = proposals.phrases[index] if proposals.phrases else ""
        region = Region(replace(crop_of(proposals, index), score=score), score, phrase, tuple(spans))
        draft.decode_s += time.perf_counter() - begun
        return region

    def _answer(self, draft: _Draft, text: MentionText) -> Answer:
        spans = dict(zip(text.order, text.spans, strict=True))
        # The same mask in a region with all its mentions: a region that was sent as an event had only the first.
        regions = [
            replace(region, spans=spans.get(index, ()), span=None) if len(spans.get(index, ())) > 1 else region
            for index, region in draft.regions.items()
        ]
        total = time.perf_counter() - draft.begun
        timings = Timings(0.0, total - draft.decode_s, draft.decode_s, draft.first_mask_s, total)
        return Answer(text.text, tuple(regions), (), timings, self._details(draft) if draft.details else None)

    def _details(self, draft: _Draft) -> dict[str, Any]:
        return {
            "answer_ids": draft.ids,
            "step_logits": np.stack(draft.logits) if draft.logits else np.zeros((0, 0), np.float32),
            "proposal_ids": list(draft.regions),
        }


def crop_of(proposals: Proposals, index: int) -> MaskCrop:
    """The mask of a proposal; an empty one where proposals are embeddings alone."""
    if proposals.masks is not None:
        return crop_mask(proposals.masks[index])
    return proposals.crops[index] if len(proposals.crops) else crop_mask(np.zeros((1, 1), bool))


def count_of(proposals: Proposals, size: tuple[int, int]) -> int:
    """Check proposals, and count them.

    Args:
        proposals: Of a frame.
        size: (height, width) of the frame, pixels.

    Raises:
        CommandError: The numbers of two parts differ, or masks have another size than the frame.
    """
    masks, embeddings, scores, phrases = proposals.masks, proposals.embeddings, proposals.scores, proposals.phrases
    if masks is not None and masks.dtype != np.bool_:
        raise CommandError(f"the proposals' masks are {masks.dtype}; give bool")
    if masks is not None and (masks.ndim != 3 or (len(masks) and masks.shape[1:] != size)):
        raise CommandError(
            f"the proposals' masks are {masks.dtype} {masks.shape}; give bool (N, {size[0]}, {size[1]}), as the frame"
        )
    if embeddings is not None and (embeddings.ndim != 2 or not np.isfinite(embeddings).all()):
        raise CommandError(f"the proposals' embeddings are {embeddings.shape}; give finite numbers (N, D)")
    for crop in proposals.crops:
        if crop.x + crop.width > size[1] or crop.y + crop.height > size[0]:
            raise CommandError(
                f"a proposal's mask ends at x {crop.x + crop.width}, y {crop.y + crop.height}; the frame has {size[1]} "
                f"x {size[0]} pixels: propose masks of this frame"
            )
    parts = {"masks": masks, "crops": proposals.crops or None, "embeddings": embeddings}
    counts = {
        name: len(part)
        for name, part in {**parts, "scores": scores, "phrases": phrases or None}.items()
        if part is not None
    }
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise CommandError(f"the proposals have {listed}; give one of each for every proposal")
    return next(iter(counts.values()), 0)


def _ignore(event: Event) -> None:
    del event


def _never() -> bool:
    return False
