"""A frame and a command in, an answer and masks out: LISA as a person uses it.

segmenter = Segmenter.from_checkpoint("LISA-7B-v1")
encoded = segmenter.encode(rgb)
result = segmenter.segment(encoded, "the thing to drink from")
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import (
    EXPLAIN,
    HISTORY,
    TEACHER_FORCED,
    Answer,
    Ask,
    Conversation,
    EngineInfo,
    Event,
    OnEvent,
    Region,
    Regions,
    ShouldStop,
    Stage,
    Timings,
    Token,
    Turn,
    crop_mask,
)
from lisa_ros.engine.support import check_rgb
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, OutOfMemory
from lisa_ros.lisa.draft import DraftBook
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import Precision, pick_device
from lisa_ros.lisa.preprocess import Size, for_clip, for_sam, resized_size
from lisa_ros.lisa.prompt import Prompt, build_prompt, check_words, phrase_command, template
from lisa_ros.lisa.tokenizer import IMAGE_ID, Span, Tokenizer
from lisa_ros.lisa.weights.checkpoint import ClipFolder, Spec, load_lisa, read_clip, read_spec, resolve_tower
from lisa_ros.perception.masks import Segmentation, mask_score
from lisa_ros.perception.specks import drop_specks

SEG = "[SEG]"


@dataclass(eq=False)
class EncodedImage:
    """One frame as the model sees it, made by :meth:`Segmenter.encode` and good for any number of commands.

    rgb: uint8 (H, W, 3). tokens: (1, K, hidden) image tokens. embedding: (1, C, h, w) for the mask decoder, made when
    the first mask needs it. cache: keys and values of the last conversation about this frame.
    """

    rgb: NDArray[np.uint8]
    tokens: Tensor
    embedding: Tensor | None
    cache: PrefixCache
    encode_s: float

    @property
    def size(self) -> Size:
        """(height, width), camera pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


@dataclass
class _Draft:
    """An answer while it grows. details: keep what :attr:`Answer.details` needs."""

    on_event: Callable[[Event], None]
    begun: float
    details: bool
    max_masks: int
    ids: list[int] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    low_res: list[Tensor] = field(default_factory=list)  # each (S, 1, h, w)
    logits: list[NDArray[np.float32]] = field(default_factory=list)  # each (H, W)
    probabilities: list[float] = field(default_factory=list)
    embed_s: float = 0.0
    decode_s: float = 0.0
    first_mask_s: float = 0.0


class Segmenter:
    """LISA with its tokenizer and templates: an engine. One call at a time: a frame holds its conversation's cache."""

    def __init__(
        self, lisa: Lisa, spec: Spec, tokenizer: Tokenizer, clip: ClipFolder | None, conversation: str, precision: str
    ):
        self.lisa = lisa
        self.spec = spec
        self.tokenizer = tokenizer
        self.precision = precision
        self.name = spec.name
        self._clip = clip
        self.template = template(conversation)
        self.seg_id = self._required_token(SEG)
        if spec.image_start_end:
            self._required_token("<im_start>")
            self._required_token("<im_end>")
        self._drafts = DraftBook(tokenizer, self.template)
        self._prefix = self._read_system_text()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        vision_tower: str | Path | None = None,
        conversation: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        progress: Callable[[float], None] | None = None,
    ) -> Segmenter:
        """Load a checkpoint of the reference, or one of ours. Never touches the network.

        vision_tower: folder or hub id of the CLIP tower, where config.json's own is not to be found. conversation: a
        name of ``lisa_ros.lisa.prompt.TEMPLATES``. device: auto, cpu, cuda, cuda:N. precision: auto, fp32, bf16, fp16,
        int8, nf4. progress: called with the share loaded, in [0, 1].

        Raises CheckpointError, ConfigError, DeviceError, OutOfMemory.
        """
        folder = Path(path).expanduser()
        on = pick_device(device)
        how = Precision.pick(precision, on)
        spec = read_spec(folder)
        tower = resolve_tower(vision_tower, spec, folder)
        clip = read_clip(tower) if tower is not None else None
        tokenizer = Tokenizer.from_folder(folder)
        with _out_of_memory(f"loading {folder.name} as {how.name} on {on}"), torch.inference_mode():
            lisa, spec = load_lisa(folder, clip, how, on, progress)
            if len(tokenizer) > lisa.llama.config.vocab_size:
                raise CheckpointError(
                    f"{folder}: the tokenizer has {len(tokenizer)} tokens, the embedding only "
                    f"{lisa.llama.config.vocab_size} rows"
                )
            return cls(lisa, spec, tokenizer, clip, conversation or spec.conversation, how.name)

    @property
    def device(self) -> torch.device:
        return self.lisa.device

    @torch.inference_mode()
    def encode(self, rgb: NDArray[np.uint8]) -> EncodedImage:
        """Look at a frame once, for any number of commands. rgb: uint8 (H, W, 3). Raises ImageError, OutOfMemory.

        The mask decoder's image embedding is left until a mask needs it, except where one encoder serves both.
        """
        check_rgb(rgb)
        begun = time.perf_counter()
        with _out_of_memory("encoding an image"):
            embedding = self.embed(rgb) if self._clip is None else None
            tokens = self.lisa.image_tokens(self._clip_pixels(rgb) if embedding is None else embedding)
        self._synchronize()
        cache = self._prefix.copy(len(self._prefix.tokens))
        return EncodedImage(rgb.copy(), tokens, embedding, cache, time.perf_counter() - begun)

    @property
    def info(self) -> EngineInfo:
        capabilities = frozenset({EXPLAIN, HISTORY, TEACHER_FORCED})
        return EngineInfo(self.name, str(self.device), self.precision, capabilities)

    def ask(
        self,
        encoded: EncodedImage,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
        draft: bool = True,
    ) -> Answer:
        """Answer a question about a frame: greedy, the same tokens with and without ``draft``.

        Raises CommandError (empty, or longer than the model can read), Cancelled, OutOfMemory.
        """
        begun = time.perf_counter()
        question = self._question(ask)
        answer = _Draft(on_event or (lambda event: None), begun, details, ask.mask_limit)
        stop = should_stop or (lambda: False)
        with _out_of_memory("answering a command"), torch.inference_mode():
            ids, first_turn = self._prompt_ids(question, ask.history, ask.token_limit)
            answer.on_event(Stage("reading"))
            for step in self._generate(encoded, ids, ask.token_limit, draft, stop):
                self._take(encoded, answer, step, stop)
            result = self._answer(encoded, answer)
        if ask.history is not None:
            del ask.history.turns[:first_turn]
            ask.history.append(Turn(question, result.text))
        return result

    @torch.inference_mode()
    def teacher_forced(self, encoded: EncodedImage, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """Union (H, W) bool of the masks of the last of ``answers``, each the true answer to the ask of the same index.

        Specks are removed as in :meth:`ask`.
        """
        turns: list[Turn] = []
        for ask, answer in zip(asks, answers, strict=True):
            question = ask.text
            if not ask.verbatim:
                question = phrase_command(question, self.spec.questions, explain=ask.explain, follow_up=bool(turns))
            turns.append(Turn(question, answer))
        markers = self.spec.image_start_end
        asked = build_prompt([*turns[:-1], Turn(turns[-1].question)], self.template, im_start_end=markers)
        whole = build_prompt(turns, self.template, im_start_end=markers)
        ids = torch.tensor([self.tokenizer.encode_prompt(whole.text)], device=self.device)
        hidden = self.lisa.read(self.lisa.embed_prompt(ids, encoded.tokens))  # (1, L, H)
        at = self.lisa.seg_positions(ids, self.seg_id, encoded.tokens.shape[1])[0]
        # The masks of earlier turns do not count.
        at[: len(self.tokenizer.encode_prompt(asked.text)) + encoded.tokens.shape[1] - 2] = False
        if encoded.embedding is None:
            encoded.embedding = self.embed(encoded.rgb)
        low_res = self.lisa.decode_masks(encoded.embedding, self.lisa.seg_projector(hidden[0, at]))
        logits = upsample_logits(low_res.float(), encoded.size, self.lisa.input_size).cpu().numpy()
        if self.spec.smallest_part:
            for one in logits:
                drop_specks(one, self.spec.smallest_part)
        return (logits > 0).any(0)

    def segment(self, encoded: EncodedImage, command: str, *, draft: bool = True, **options: Any) -> Segmentation:
        """:meth:`ask`, with every mask at the image's size."""
        stop, event = options.pop("should_stop", None), options.pop("on_event", None)
        answer = self.ask(encoded, Ask(command, **options), event, stop, details=True, draft=draft)
        details = answer.details or {}
        return Segmentation(
            answer=answer.text,
            answer_ids=details["answer_ids"],
            masks=details["mask_logits"] > 0,
            mask_logits=details["mask_logits"],
            low_res_logits=details["low_res_logits"],
            seg_probabilities=details["seg_probabilities"],
            scores=np.array([region.score for region in answer.regions], np.float32),
            timings=answer.timings,
        )

    # --- the prompt ---

    def _question(self, ask: Ask) -> str:
        if ask.verbatim:
            check_words(ask.text)
            return ask.text
        follow_up = ask.history is not None and bool(ask.history.turns)
        return phrase_command(ask.text, self.spec.questions, explain=ask.explain, follow_up=follow_up)

    def _prompt_ids(self, question: str, history: Conversation | None, max_new_tokens: int) -> tuple[list[int], int]:
        """Ids of the prompt, image tokens as IMAGE_ID each, and how many old turns did not fit."""
        past = list(history.turns) if history is not None else []
        limit = self.lisa.llama.config.max_position_embeddings
        room = limit - min(max_new_tokens, limit // 4)
        for forgotten in range(len(past) + 1):
            turns = [*past[forgotten:], Turn(question)]
            ids = self._expand(build_prompt(turns, self.template, im_start_end=self.spec.image_start_end))
            if len(ids) <= room:
                return ids, forgotten
        raise CommandError(
            f"the command makes a prompt of {len(ids)} tokens; {self.name} reads at most {room}; say it shorter"
        )

    def _expand(self, prompt: Prompt) -> list[int]:
        ids = self.tokenizer.encode_prompt(prompt.text, prompt.literal)
        at = ids.index(IMAGE_ID)
        return ids[:at] + [IMAGE_ID] * self.lisa.vision_tower.num_tokens + ids[at + 1 :]

    def _read_system_text(self) -> PrefixCache:
        """Keys and values of all that stands before the image: the same for every frame, so computed once."""
        ids = self._expand(build_prompt([Turn("x")], self.template, im_start_end=self.spec.image_start_end))
        cache = self.lisa.new_cache()
        before = ids[: ids.index(IMAGE_ID)]
        with torch.inference_mode():
            self._read(before, None, cache)
        return cache

    # --- the answer ---

    def _generate(
        self, encoded: EncodedImage, prompt: list[int], max_new_tokens: int, draft: bool, stop: Callable[[], bool]
    ) -> Iterator[list[tuple[int, Tensor, Tensor]]]:
        """Greedy decoding. Yields, for every pass of the model, the tokens it settled: id, hidden state, logits.

        A draft of the likely answer rides along with each pass: the model's own choice at every position is compared
        with it, and what agrees is settled at once. Choices are the model's, so the text is greedy decoding's.
        """
        cache = encoded.cache
        cache.truncate(min(cache.common_prefix(prompt), len(prompt) - 1))
        answer: list[int] = []
        limit = min(max_new_tokens, self.lisa.llama.config.max_position_embeddings - len(prompt))
        while len(answer) < limit:
            if stop():
                raise Cancelled("cancelled before the answer was complete")
            proposed = self._drafts.continuation(answer)[: limit - len(answer) - 1] if draft else []
            pending = (prompt + answer)[len(cache.tokens) :] + proposed
            hidden = self._read(pending, encoded.tokens, cache)[-len(proposed) - 1 :]  # (P + 1, H)
            logits = self.lisa.predict(hidden, encoded.tokens[0])  # (P + 1, V)
            settled = []
            for position, token in enumerate(logits.argmax(-1).tolist()):
                answer.append(token)
                settled.append((token, hidden[position], logits[position]))
                if token == self.tokenizer.eos_id or position == len(proposed) or token != proposed[position]:
                    break
            cache.truncate(len(prompt) + len(answer) - 1)
            yield settled
            if answer[-1] == self.tokenizer.eos_id:
                self._drafts.learn(answer)
                return

    def _read(self, ids: Sequence[int], image_tokens: Tensor | None, cache: PrefixCache) -> Tensor:
        """(len(ids), H) hidden states of ids that follow what the cache holds."""
        embedded = self.lisa.llama.embed_tokens(torch.tensor([max(i, 0) for i in ids], device=self.device))[None]
        if IMAGE_ID in ids:
            if image_tokens is None:
                raise ValueError("a prompt with an image needs its tokens")
            at, already = ids.index(IMAGE_ID), cache.tokens.count(IMAGE_ID)
            tokens = image_tokens[:, already:].to(embedded.dtype)
            embedded[:, at : at + tokens.shape[1]] = tokens
        hidden = self.lisa.read(embedded, cache)[0]
        cache.tokens.extend(ids)
        return hidden

    def _take(
        self,
        encoded: EncodedImage,
        answer: _Draft,
        settled: list[tuple[int, Tensor, Tensor]],
        stop: Callable[[], bool],
    ) -> None:
        """Add one pass's tokens to the answer; decode the masks of its ``[SEG]`` at once."""
        if not answer.ids:
            answer.on_event(Stage("generating"))
        chosen: list[tuple[Tensor, Tensor, Span]] = []
        for token, hidden, logits in settled:
            answer.ids.append(token)
            if token == self.seg_id and len(answer.regions) + len(chosen) < answer.max_masks:
                end = len(self.tokenizer.answer_text(answer.ids))
                chosen.append((hidden, logits, (end - len(SEG), end)))
        answer.on_event(Token(self.tokenizer.answer_text(answer.ids)))
        if not chosen:
            return
        if stop():
            raise Cancelled("cancelled before the mask was decoded")
        answer.on_event(Stage("decoding"))
        if encoded.embedding is None:
            begun = time.perf_counter()
            encoded.embedding = self.embed(encoded.rgb)
            self._synchronize()
            answer.embed_s += time.perf_counter() - begun
            if stop():
                raise Cancelled("cancelled before the mask was decoded")
        begun = time.perf_counter()
        regions = self._decode(encoded, answer, chosen)
        answer.decode_s += time.perf_counter() - begun
        answer.first_mask_s = answer.first_mask_s or time.perf_counter() - answer.begun
        answer.regions += regions
        answer.on_event(Regions(regions))

    def _decode(self, encoded: EncodedImage, answer: _Draft, chosen: list[tuple[Tensor, Tensor, Span]]) -> list[Region]:
        embeddings = self.lisa.seg_projector(torch.stack([hidden for hidden, _, _ in chosen]))  # (S, C)
        low_res = self.lisa.decode_masks(encoded.embedding, embeddings).float()  # (S, 1, h, w)
        full = upsample_logits(low_res, encoded.size, self.lisa.input_size).cpu().numpy()  # (S, H, W)
        probabilities = torch.stack([logits for _, logits, _ in chosen]).float().softmax(-1)[:, self.seg_id].tolist()
        if answer.details:
            answer.low_res.append(low_res)
            answer.logits += list(full.copy())
            answer.probabilities += probabilities
        regions = []
        for logits, probability, (_, _, span) in zip(full, probabilities, chosen, strict=True):
            if self.spec.smallest_part:
                drop_specks(logits, self.spec.smallest_part)
            score = mask_score(probability, logits)
            regions.append(Region(crop_mask(logits > 0, score=score), score, span=span))
        return regions

    def _answer(self, encoded: EncodedImage, answer: _Draft) -> Answer:
        total = time.perf_counter() - answer.begun
        timings = Timings(
            encode_s=answer.embed_s,
            generate_s=total - answer.embed_s - answer.decode_s,
            decode_s=answer.decode_s,
            first_mask_s=answer.first_mask_s,
            total_s=total,
        )
        details = self._details(encoded, answer) if answer.details else None
        return Answer(self.tokenizer.answer_text(answer.ids), tuple(answer.regions), (), timings, details)

    def _details(self, encoded: EncodedImage, answer: _Draft) -> dict[str, Any]:
        height, width = encoded.size
        grid = 4 * self.lisa.sam.config.prompt_encoder_config.image_embedding_size
        low_res = (
            torch.cat(answer.low_res).cpu().numpy() if answer.low_res else np.zeros((0, 1, grid, grid), np.float32)
        )
        return {
            "answer_ids": answer.ids,
            "mask_logits": np.stack(answer.logits) if answer.logits else np.zeros((0, height, width), np.float32),
            "low_res_logits": low_res,
            "seg_probabilities": np.array(answer.probabilities, np.float32),
        }

    # --- the towers ---

    def _clip_pixels(self, rgb: NDArray[np.uint8]) -> Tensor:
        assert self._clip is not None
        return self._to_device(for_clip(rgb, self._clip.preprocessing))

    def embed(self, rgb: NDArray[np.uint8]) -> Tensor:
        """Frame (H, W, 3) uint8 to the image embedding (1, C, h, w) that masks are decoded from."""
        return self.lisa.embed_image(self._to_device(for_sam(rgb, self.lisa.input_size)))

    def _to_device(self, pixels: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(pixels)[None].to(device=self.device, dtype=self.lisa.dtype)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _required_token(self, text: str) -> int:
        token = self.tokenizer.id_of(text)
        if token is None:
            raise CheckpointError(
                f"{self.name}: the tokenizer has no {text}; added_tokens.json is missing or not LISA's"
            )
        return token


def upsample_logits(low_res: Tensor, size: Size, input_size: int) -> Tensor:
    """Mask logits back in camera pixels: (S, 1, h, w) float32 on the padded square to (S, H, W) float32.

    Twice bilinear (to the square, then from its unpadded part to the camera), as SAM does. size: (height, width).
    """
    if low_res.shape[0] == 0:
        return low_res.new_zeros(0, *size)
    square = F.interpolate(low_res, (input_size, input_size), mode="bilinear", align_corners=False)
    height, width = resized_size(size, input_size)
    return F.interpolate(square[..., :height, :width], size, mode="bilinear", align_corners=False)[:, 0]


@contextmanager
def _out_of_memory(doing: str) -> Iterator[None]:
    """Turn the several ways in which memory runs out into OutOfMemory, with the way out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(_memory_advice(doing, error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise OutOfMemory(_memory_advice(doing, error)) from error


def _memory_advice(doing: str, error: BaseException) -> str:
    reason = str(error).splitlines()[0] if str(error) else "no memory left"
    return f"out of memory while {doing}: {reason}; use precision nf4 or int8, a smaller model or a smaller image"
