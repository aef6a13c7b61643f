"""LISA and its relatives as an engine: a frame and a command in, an answer and masks out.

segmenter = Segmenter.from_checkpoint("LISA-7B-v1")
encoded = segmenter.encode(rgb)
answer = segmenter.ask(encoded, Ask("the thing to drink from"))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import (
    EXPLAIN,
    HISTORY,
    POINTS,
    TARGETS,
    TEACHER_FORCED,
    Answer,
    Ask,
    Conversation,
    EngineInfo,
    Event,
    OnEvent,
    Proposals,
    Region,
    Regions,
    ShouldStop,
    Stage,
    Timings,
    Token,
    Turn,
    crop_mask,
)
from lisa_ros.engine.contract import check_rgb
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, NumericalError
from lisa_ros.lisa.draft import DraftBook
from lisa_ros.lisa.family import Family
from lisa_ros.lisa.grounding import Features, Grounding, seg_grounding
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.mask_decoder import upsample_logits
from lisa_ros.lisa.model.quantize import Precision, pick_device
from lisa_ros.lisa.model.sam import embedding_side
from lisa_ros.lisa.out_of_memory import out_of_memory
from lisa_ros.lisa.partial_answer import Coarse, Mark, PartialAnswer, Step
from lisa_ros.lisa.pointing import pointing_of
from lisa_ros.lisa.preprocess import Size, for_clip, for_sam
from lisa_ros.lisa.prompt import Prompt, build_prompt, check_words, names_of, phrase_command, question_about, template
from lisa_ros.lisa.threads import one_thread, wants_one_thread
from lisa_ros.lisa.tokenizer import IMAGE_ID, Tokenizer
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.spec import ClipFolder, Spec, read_clip, read_spec, resolve_tower, with_points
from lisa_ros.perception.masks import mask_score
from lisa_ros.perception.specks import drop_specks

MASKS_AT_ONCE = 16
"""Masks of one pass of the mask decoder: each takes 26 MB there, and its logits at the image's size."""


@dataclass(eq=False)
class EncodedImage:
    """An encoded frame, made by :meth:`Segmenter.encode`. It serves any number of commands.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        features: Image tokens; the image embedding of the mask decoder after the first mask.
        cache: Keys and values of the last conversation about this frame.
        encode_s: Seconds that encoding took.
        proposals: Masks to choose from, once a proposer has made them (``lisa_ros.extractive``).
    """

    rgb: NDArray[np.uint8]
    features: Features
    cache: PrefixCache
    encode_s: float
    proposals: Proposals | None = None

    @property
    def size(self) -> Size:
        """(height, width) of the frame, pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


@dataclass
class _Clock:
    """Times of one answer. begun: by ``time.perf_counter``; the others are durations in seconds."""

    begun: float
    embed_s: float = 0.0
    decode_s: float = 0.0
    first_mask_s: float = 0.0


class Segmenter:
    """The engine ``lisa``: a model of any family with its tokenizer and template.

    Calls are made one at a time, since each encoded frame has one key-value cache.

    Args:
        lisa: The model, with weights.
        spec: Content of the checkpoint's config.json.
        tokenizer: The checkpoint's.
        clip: The CLIP tower; None if the model has an encoder of its own.
        conversation: Name of a template.
        precision: Name of the number format, for ``info``.
        coarse_regions: Whether coarse masks are sent as early regions. The answer does not have them.

    Raises:
        ConfigError: There is no such template.
        CheckpointError: The tokenizer lacks a token that the model needs.
    """

    def __init__(
        self,
        lisa: Lisa,
        spec: Spec,
        tokenizer: Tokenizer,
        clip: ClipFolder | None,
        conversation: str,
        precision: str,
        *,
        coarse_regions: bool = False,
    ):
        self.lisa = lisa
        self.spec = spec
        self.tokenizer = tokenizer
        self.precision = precision
        self.name = spec.name
        self._clip = clip
        self.template = template(conversation)
        self.family = spec.family
        self._coarse_regions = coarse_regions
        for token in (*self.family.tokens, *(("<im_start>", "<im_end>") if spec.image_start_end else ())):
            self._check_token(token)
        self.grounding: Grounding = seg_grounding(lisa, spec, tokenizer)
        self._drafts = DraftBook(tokenizer, self.template, self.family)
        self._one_thread = wants_one_thread(lisa.llama.config.hidden_size, lisa.device)
        self._prefix = self._read_system_text()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        vision_tower: str | Path | None = None,
        conversation: str | None = None,
        family: Family | None = None,
        points: Mapping[str, Any] | None = None,
        coarse_regions: bool = False,
        device: str = "auto",
        precision: str = "auto",
        progress: Callable[[float], None] | None = None,
    ) -> Segmenter:
        """Load a checkpoint of the reference, or one of ours. Never touches the network.

        Args:
            path: Folder of the checkpoint.
            vision_tower: Folder or cached hub id of the CLIP tower; None takes the one that config.json names.
            conversation: A name of ``lisa_ros.lisa.prompt.TEMPLATES``; None takes the checkpoint's.
            family: None takes the one that config.json names.
            points: Some or all settings of READ's similarity points; the others are the checkpoint's.
            coarse_regions: As in the constructor.
            device: auto, cpu, cuda or cuda:N.
            precision: One of ``engine.options.PRECISIONS``.
            progress: Called with the loaded share, in [0, 1].

        Raises:
            CheckpointError: The folder is missing, damaged or not LISA's.
            ConfigError: An unknown template or precision, or points that cannot be used.
            DeviceError: The device does not exist.
            OutOfMemory: The device has too little memory.
        """
        folder = Path(path).expanduser()
        on = pick_device(device)
        numbers = Precision.pick(precision, on)
        spec = read_spec(folder, family)
        if points is not None:
            spec = with_points(spec, points)
        tower = resolve_tower(vision_tower, spec, folder)
        clip = read_clip(tower) if tower is not None else None
        tokenizer = Tokenizer.from_folder(folder, strips_blanks=spec.strips_blanks)
        with out_of_memory(f"loading {folder.name} as {numbers.name} on {on}"), torch.inference_mode():
            lisa, spec = load_lisa(folder, clip, numbers, on, progress, spec)
            if len(tokenizer) > lisa.llama.config.vocab_size:
                raise CheckpointError(
                    f"{folder}: the tokenizer has {len(tokenizer)} tokens, the embedding only "
                    f"{lisa.llama.config.vocab_size} rows"
                )
            name = conversation or spec.conversation
            return cls(lisa, spec, tokenizer, clip, name, numbers.name, coarse_regions=coarse_regions)

    @property
    def device(self) -> torch.device:
        return self.lisa.device

    @property
    def info(self) -> EngineInfo:
        capabilities = {EXPLAIN, HISTORY, POINTS, TEACHER_FORCED, *((TARGETS,) if self.spec.answers_targets else ())}
        return EngineInfo(self.name, str(self.device), self.precision, frozenset(capabilities))

    @torch.inference_mode()
    def encode(self, rgb: NDArray[np.uint8]) -> EncodedImage:
        """Encode a frame once, for any number of commands.

        SAM's image encoder runs later, when the first mask needs it. If the model has one encoder for both, it runs
        here.

        Args:
            rgb: uint8 (H, W, 3), RGB. Copied unless it is read-only.

        Raises:
            ImageError: ``rgb`` is not such an array.
            OutOfMemory: The device has too little memory.
        """
        check_rgb(rgb)
        begun = time.perf_counter()
        with out_of_memory("encoding an image"):
            embedding = self.embed(rgb) if self._clip is None else None
            tokens = self.lisa.image_tokens(self._clip_pixels(rgb) if embedding is None else embedding)
        self._synchronize()
        cache = self.empty_cache()
        own = rgb.copy() if rgb.flags.writeable else rgb  # what nobody can write need not be copied
        features = Features(tokens, embedding, size=(rgb.shape[0], rgb.shape[1]))
        return EncodedImage(own, features, cache, time.perf_counter() - begun)

    def ask(
        self,
        encoded: EncodedImage,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
        draft: bool = True,
    ) -> Answer:
        """Answer a command about a frame by greedy decoding.

        Args:
            encoded: Result of :meth:`encode`.
            ask: The command.
            on_event: Called with each Stage, Token and Regions.
            should_stop: Called between tokens and before each long step.
            details: Fill :attr:`Answer.details`.
            draft: Use speculative decoding. The tokens are the same without it.

        Returns:
            The answer; its masks have the size of the frame.

        Raises:
            CommandError: The command is empty, or longer than the model can read.
            Cancelled: ``should_stop`` returned True.
            NumericalError: The model computed NaN or infinite numbers.
            OutOfMemory: The device has too little memory.
        """
        begun = time.perf_counter()
        question = self._question(ask, follow_up=ask.history is not None and bool(ask.history.turns))
        targets = ask.targets if self.spec.answers_targets else ()
        answer = PartialAnswer(self.tokenizer, self.family, self.grounding, targets, ask.mask_limit, details)
        answer.pointing = pointing_of(ask)
        clock, send = _Clock(begun), on_event or _ignore
        stop = should_stop or _never
        with out_of_memory("answering a command"), torch.inference_mode():
            ids, first_turn = self._prompt_ids(question, ask.history, ask.token_limit)
            send(Stage("reading"))
            about = self._drafts.about(names_of(targets, self.spec.questions)) if draft else None
            for steps in self._generate(encoded, ids, ask.token_limit, about, stop):
                self._take(encoded, answer, steps, clock, send, stop)
            result = self._answer(encoded, answer, clock)
        if ask.history is not None:
            del ask.history.turns[:first_turn]
            text = result.text if self.spec.strips_blanks else self.tokenizer.exact_text(answer.ids)
            ask.history.append(replace(question, answer=text))
        return result

    @torch.inference_mode()
    def teacher_forced(self, encoded: EncodedImage, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """Mask that the model gives when it is given the true answers.

        Args:
            encoded: Result of :meth:`encode`.
            asks: The commands of one conversation.
            answers: The true answer to each command, with ``[SEG]``.

        Returns:
            (H, W) bool: union of the masks of the last answer, with the post-processing of :meth:`ask`.
        """
        with out_of_memory("scoring an answer"):
            ids, hidden, begin = self._read_answers(encoded, asks, answers)
            self.ensure_embedding(encoded)
            logits = self._upsampled(self._forced(encoded, ids, hidden, begin), encoded.size)
        for one in logits:
            self._drop_specks(one)
        return np.logical_or.reduce(logits > 0, axis=0)

    def _read_answers(
        self, encoded: EncodedImage, asks: Sequence[Ask], answers: Sequence[str]
    ) -> tuple[list[int], Tensor, int]:
        """Expanded ids (L) of answered turns, their states (L, H), and where the last answer begins."""
        turns: list[Turn] = []
        for ask, text in zip(asks, answers, strict=True):
            turns.append(replace(self._question(ask, follow_up=bool(turns)), answer=self.family.true_answer(text)))
        unanswered = self._prompt([*turns[:-1], replace(turns[-1], answer=None)])
        # The texts are those of a data set, not of a user: their [SEG] are tokens, so no span is literal.
        begin, ids = (len(self.expand(Prompt(unanswered.text))), self.expand(Prompt(self._prompt(turns).text)))
        whole = torch.tensor([ids], device=self.device)  # (1, L)
        hidden = self.lisa.read(self.grounding.embed(whole, encoded.features.tokens))  # (1, L, H)
        if self.spec.points is not None:
            encoded.features.states = hidden[0, whole[0] == IMAGE_ID]
        return ids, hidden[0], begin

    @torch.inference_mode()
    def mask_prompts(self, image_tokens: Tensor, turn: Turn, cache: PrefixCache | None = None) -> Tensor:
        """Mask prompts of a given answer about any image tokens, for those who explore what the model knows.

        Args:
            image_tokens: (1, K, H).
            turn: Question and answer.
            cache: Keys and values of earlier turns about the same image tokens (:meth:`empty_cache`); extended.

        Returns:
            (S, C): one for each ``[SEG]`` of the answer.
        """
        cache = self.empty_cache() if cache is None else cache
        ids = self.expand(Prompt(self._prompt([turn]).text))
        cache.truncate(min(cache.common_prefix(ids), len(ids) - 1))
        known = len(cache.tokens)
        hidden = self._read(ids[known:], Features(image_tokens), cache)
        return self.lisa.seg_projector(hidden[self.grounding.predicts_mask(torch.tensor([ids]))[0, known:]])

    def empty_cache(self) -> PrefixCache:
        """A cache for prompts about a new frame: it holds the text before the image."""
        return self._prefix.copy(len(self._prefix.tokens))

    def mask_logits(self, encoded: EncodedImage, hidden: Tensor) -> NDArray[np.float32]:
        """Mask logits (S, H, W) of states (S, H) that predict mask tokens, at the size of the frame."""
        self.ensure_embedding(encoded)
        return self._upsampled(self.grounding.masks(hidden, encoded.features), encoded.size)

    def _forced(self, encoded: EncodedImage, ids: list[int], hidden: Tensor, begin: int) -> Tensor:
        """Mask logits (S, 1, h, w) of the mask tokens of ids from ``begin`` on, with their states (L, H)."""
        fine = [at - 1 for at, token in enumerate(ids) if self.grounding.is_mask(token)]
        pairs = [(at, whose) for at, whose in zip(fine, self.grounding.coarse_of(ids), strict=True) if at + 1 >= begin]
        coarse = self._coarse_logits(encoded, [None if whose is None else Coarse(hidden[whose]) for _, whose in pairs])
        return self.grounding.masks(hidden[[at for at, _ in pairs]], encoded.features, coarse)

    # --- the prompt ---

    def _question(self, ask: Ask, follow_up: bool) -> Turn:
        """A turn without an answer. follow_up: whether there are earlier turns."""
        if ask.targets and self.spec.answers_targets:
            return question_about(names_of(ask.targets, self.spec.questions), self.spec.questions)
        if ask.verbatim:
            check_words(ask.text)
            return Turn(ask.text)
        return Turn(phrase_command(ask.text, self.spec.questions, explain=ask.explain, follow_up=follow_up))

    def _prompt(self, turns: Sequence[Turn]) -> Prompt:
        tokens = self.family.answer_tokens
        return build_prompt(turns, self.template, im_start_end=self.spec.image_start_end, answer_tokens=tokens)

    def _prompt_ids(self, question: Turn, history: Conversation | None, max_new_tokens: int) -> tuple[list[int], int]:
        """Expanded ids of the prompt, and the number of old turns that did not fit."""
        past = list(history.turns) if history is not None else []
        limit = self.lisa.llama.config.max_position_embeddings
        room = limit - min(max_new_tokens, limit // 4)
        for dropped in range(len(past) + 1):
            ids = self.expand(self._prompt([*past[dropped:], question]))
            if len(ids) <= room:
                return ids, dropped
        raise CommandError(
            f"with this command the prompt has {len(ids)} tokens; {self.name} reads at most {room}: send a shorter one"
        )

    def expand(self, prompt: Prompt) -> list[int]:
        """Ids of the prompt, with IMAGE_ID repeated for each image token."""
        ids = self.tokenizer.encode_prompt(prompt.text, prompt.literal)
        at = ids.index(IMAGE_ID)
        return ids[:at] + [IMAGE_ID] * self.lisa.vision_tower.num_tokens + ids[at + 1 :]

    def _read_system_text(self) -> PrefixCache:
        """Keys and values of the text before the image. It is the same for every frame, so they are computed once."""
        ids = self.expand(self._prompt([Turn("x")]))
        cache = self.lisa.new_cache()
        with torch.inference_mode():
            self._read(ids[: ids.index(IMAGE_ID)], None, cache)
        return cache

    # --- the answer ---

    def _generate(
        self,
        encoded: EncodedImage,
        prompt: list[int],
        max_new_tokens: int,
        about: Sequence[tuple[int, ...]] | None,
        stop: ShouldStop,
    ) -> Iterator[list[Step]]:
        """Greedy decoding with a draft. Yields the new tokens of each pass of the model.

        about: answers of this command to try as drafts first; None: no drafts.

        Each pass also reads a draft of the rest of the answer, and gives the model's own choice at every position.
        Choices are accepted up to the first one that differs from the draft. So the text is that of greedy decoding.
        """
        cache = encoded.cache
        cache.truncate(min(cache.common_prefix(prompt), len(prompt) - 1))
        answer: list[int] = []
        right = False  # the last draft, as a whole
        limit = min(max_new_tokens, self.lisa.llama.config.max_position_embeddings - len(prompt))
        while len(answer) < limit:
            if stop():
                raise Cancelled("canceled before the answer was complete")
            proposed = [] if about is None else self._drafts.continuation(answer, about, whole=right)
            del proposed[limit - len(answer) - 1 :]
            pending = (prompt + answer)[len(cache.tokens) :] + proposed
            with one_thread(self._one_thread):
                hidden = self._read(pending, encoded.features, cache)[-len(proposed) - 1 :]  # (P + 1, H)
                logits = self.grounding.logits(hidden, encoded.features)  # (P + 1, V)
            steps = []
            highest, tokens = logits.max(-1)  # of a NaN the maximum is NaN
            self._check_finite(bool(highest.isfinite().all()), "logits")
            for position, token in enumerate(tokens.tolist()):
                answer.append(token)
                steps.append(Step(token, hidden[position], logits[position]))
                if token == self.tokenizer.eos_id or position == len(proposed) or token != proposed[position]:
                    break
            right = len(steps) == len(proposed) + 1
            cache.truncate(len(prompt) + len(answer) - 1)
            yield steps
            if answer[-1] == self.tokenizer.eos_id:
                self._drafts.learn(answer)
                return

    def _read(self, ids: Sequence[int], frame: Features | None, cache: PrefixCache) -> Tensor:
        """Hidden states (len(ids), H) of ids that follow those in the cache.

        A cache has all image tokens of a frame or none: they follow the system text, which never changes.
        """
        has_image = IMAGE_ID in ids
        if has_image and frame is None:
            raise ValueError("a prompt with an image needs its tokens")
        tokens = frame.tokens if frame is not None and has_image else None
        embedded = self.grounding.embed(torch.tensor([ids], device=self.device), tokens)  # (1, len(ids), H)
        hidden = self.lisa.read(embedded, cache)[0]
        if frame is not None and has_image and self.spec.points is not None:
            begin = ids.index(IMAGE_ID)
            frame.states = hidden[begin : begin + frame.tokens.shape[1]].clone()
        cache.tokens.extend(ids)
        return hidden

    def _take(
        self,
        encoded: EncodedImage,
        answer: PartialAnswer,
        steps: list[Step],
        clock: _Clock,
        send: OnEvent,
        stop: ShouldStop,
    ) -> None:
        """Add the tokens of one pass to the answer, and decode the masks of its mask tokens at once."""
        if not answer.ids:
            send(Stage("generating"))
        marks = answer.add(steps)
        send(Token(answer.text))
        early = answer.new_coarse if self._coarse_regions else []
        if not marks and not early:
            return
        if stop():
            raise Cancelled("canceled before the mask was decoded")
        send(Stage("decoding"))
        clock.embed_s += self._ready_masks(encoded)
        if early:
            send(Regions(self._decode_early(encoded, early)))
        for first in range(0, len(marks), MASKS_AT_ONCE):
            if stop():
                raise Cancelled("canceled before the mask was decoded")
            begun = time.perf_counter()
            with one_thread(self._one_thread):
                regions = self._decode(encoded, answer, marks[first : first + MASKS_AT_ONCE])
            clock.decode_s += time.perf_counter() - begun
            clock.first_mask_s = clock.first_mask_s or time.perf_counter() - clock.begun
            send(Regions(regions))

    def _decode(self, encoded: EncodedImage, answer: PartialAnswer, marks: list[Mark]) -> list[Region]:
        coarse = self._coarse_logits(encoded, [mark.coarse for mark in marks])
        hidden = torch.stack([mark.hidden for mark in marks])
        low_res = self.grounding.masks(hidden, encoded.features, coarse, answer.pointing)  # (S, 1, h, w)
        self._check_finite(bool(low_res.isfinite().all()), "masks")
        full = self._upsampled(low_res, encoded.size)
        answer.store(marks, low_res, full)
        regions = []
        for logits, mark in zip(full, marks, strict=True):
            self._drop_specks(logits)
            score = mask_score(mark.confidence, logits)
            region = Region(crop_mask(logits > 0, score=score), score, answer.phrase_of(mark), span=mark.span)
            answer.place(mark, region)
            regions.append(region)
        return regions

    def _coarse_logits(self, encoded: EncodedImage, ones: Sequence[Coarse | None]) -> list[Tensor | None]:
        """Coarse masks, each (1, h, w); those that are not decoded yet are decoded together."""
        new = [one for one in ones if one is not None and one.logits is None]
        if new:
            masks = self.grounding.coarse_masks(torch.stack([one.hidden for one in new]), encoded.features)
            for one, logits in zip(new, masks, strict=True):
                one.logits = logits
        return [None if one is None else one.logits for one in ones]

    def _decode_early(self, encoded: EncodedImage, ones: list[Coarse]) -> list[Region]:
        """Regions of coarse masks, to be shown before the masks that they prompt."""
        logits = torch.stack([one for one in self._coarse_logits(encoded, ones) if one is not None]).float()
        return [Region(crop_mask(mask > 0), phrase="coarse") for mask in self._upsampled(logits, encoded.size)]

    def _upsampled(self, low_res: Tensor, size: Size) -> NDArray[np.float32]:
        """Mask logits (S, 1, h, w), resized to the image (S, H, W)."""
        logits: NDArray[np.float32] = upsample_logits(low_res, size, self.lisa.input_size).cpu().numpy()
        return logits

    def _drop_specks(self, logits: NDArray[np.float32]) -> None:
        if self.spec.smallest_part:
            drop_specks(logits, self.spec.smallest_part)

    def _answer(self, encoded: EncodedImage, answer: PartialAnswer, clock: _Clock) -> Answer:
        total = time.perf_counter() - clock.begun
        timings = Timings(
            encode_s=clock.embed_s,
            generate_s=total - clock.embed_s - clock.decode_s,
            decode_s=clock.decode_s,
            first_mask_s=clock.first_mask_s,
            total_s=total,
        )
        result = answer.found()
        return Answer(answer.text, result.regions, result.absent, timings, self._details(encoded, answer))

    def _details(self, encoded: EncodedImage, answer: PartialAnswer) -> dict[str, Any] | None:
        return answer.details(encoded.size, 4 * embedding_side(self.lisa.sam))

    def _check_finite(self, finite: bool, what: str) -> None:
        """Raise NumericalError unless ``finite``: with NaN, an answer would have no mask and look like NOT_FOUND."""
        if not finite:
            others = ", ".join(name for name in ("bf16", "fp32") if name != self.precision)
            raise NumericalError(
                f"the model's {what} are not finite (precision {self.precision}): numbers overflowed or the weights "
                f"are broken; use precision {others}, or another checkpoint ('lisa inspect' looks for NaN)"
            )

    # --- the towers ---

    def _clip_pixels(self, rgb: NDArray[np.uint8]) -> Tensor:
        assert self._clip is not None
        return self._to_device(for_clip(rgb, self._clip.preprocessing))

    def embed(self, rgb: NDArray[np.uint8]) -> Tensor:
        """Image embedding (1, C, h, w) of a frame uint8 (H, W, 3), for the mask decoder."""
        return self.lisa.embed_image(self._to_device(for_sam(rgb, self.lisa.input_size)))

    def _ready_masks(self, encoded: EncodedImage) -> float:
        """Compute what masks of the frame need and is missing. Returns the seconds that it took."""
        return self.ensure_embedding(encoded)

    def ensure_embedding(self, encoded: EncodedImage) -> float:
        """Compute the image embedding if it is missing. Returns the seconds that it took."""
        if encoded.features.embedding is not None:
            return 0.0
        begun = time.perf_counter()
        encoded.features.embedding = self.embed(encoded.rgb)
        self._synchronize()
        return time.perf_counter() - begun

    def _to_device(self, pixels: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(pixels)[None].to(device=self.device, dtype=self.lisa.dtype)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _check_token(self, token: str) -> None:
        if self.tokenizer.id_of(token) is None:
            raise CheckpointError(
                f"{self.name}: the tokenizer has no {token}, which the family '{self.family.name}' needs; "
                "added_tokens.json is missing, or the model is of another family (option family)"
            )


def _ignore(event: Event) -> None:
    del event


def _never() -> bool:
    return False
