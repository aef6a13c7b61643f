"""What reads for the extractive engine where the model is a demo model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import MaskCrop, Proposals, Turn
from lisa_ros.engine.options import check_options
from lisa_ros.errors import CheckpointError, CommandError
from lisa_ros.extractive.extractor import Extractor
from lisa_ros.extractive.proposers.drawn import Drawn, DrawnOptions
from lisa_ros.extractive.proposers.proposer import Arrangement, Proposer
from lisa_ros.extractive.proposers.settings import ProposerSettings
from lisa_ros.extractive.reader import Seen, Vocabulary
from lisa_ros.extractive.resize import square_weights
from lisa_ros.extractive.words import MENTION, Message
from lisa_ros.lisa.grounding import Features
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.preprocess import Size
from lisa_ros.lisa.prompt import build_prompt
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_ros.lisa.weights.lora import LORA, fold
from lisa_ros.lisa.weights.tensors import iterate_tensors
from lisa_ros.perception.packed_crops import packed
from lisa_small.network.pointer import Pointer
from lisa_small.network.proposals import places_of
from lisa_small.network.tower import tower_of


def seg_id(segmenter: Segmenter) -> int:
    """Id of the mask token. Raises CheckpointError where the tokenizer has none."""
    token = segmenter.tokenizer.id_of(segmenter.family.mask_token)
    if token is None:
        raise CheckpointError(f"{segmenter.name}: the tokenizer has no {segmenter.family.mask_token}")
    return token


class PointedVocabulary:
    """The words of a demo model, and the proposals of one picture behind them. ``[SEG]`` is no word any more.

    Args:
        segmenter: The demo model.
        pointer: Its pointer.
        tokens: (K, H) image tokens.
        prompts: (N, C) of the proposals.
        places: (N, 6) of the proposals.
    """

    def __init__(self, segmenter: Segmenter, pointer: Pointer, tokens: Tensor, prompts: Tensor, places: Tensor):
        self._segmenter, self._pointer = segmenter, pointer
        self._seg_id = seg_id(segmenter)
        self._tokens, self._prompts = tokens, prompts
        self.rows = pointer.rows(prompts, places)
        self.first: int = segmenter.lisa.llama.config.vocab_size

    @property
    def end(self) -> int:
        return self.first + len(self._prompts)

    def logits(self, hidden: Tensor) -> Tensor:
        """States (L, H) to logits (L, V + N)."""
        words = self._segmenter.grounding.logits(hidden, Features(self._tokens[None])).float()
        seg = words[:, self._seg_id, None].clone()
        words[:, self._seg_id] = -torch.inf
        if not len(self._prompts):
            return words
        embeddings = self._segmenter.lisa.seg_projector(hidden).float()
        return torch.cat([words, seg + self._pointer.shares(embeddings, self._prompts)], dim=1)


class SmallReader:
    """The demo model as a Reader.

    Args:
        segmenter: The demo model, with what was trained.
        drawn: Its proposer, of the model before it was trained.
        pointer: With weights.
        name: Of the model.
    """

    def __init__(self, segmenter: Segmenter, drawn: Drawn, pointer: Pointer, name: str):
        self._segmenter, self._drawn, self._pointer = segmenter, drawn, pointer
        self._proposer: Proposer = drawn
        self._arrangement = Arrangement(order="proposer")
        self.name = name
        self.questions = segmenter.spec.questions
        self._seg, self._seg_id = segmenter.family.mask_token, seg_id(segmenter)
        self.reads_mask_words = False

    @property
    def device(self) -> torch.device:
        return self._segmenter.device

    @property
    def hidden_size(self) -> int:
        return int(self._segmenter.lisa.llama.config.hidden_size)

    @property
    def max_positions(self) -> int:
        return int(self._segmenter.lisa.llama.config.max_position_embeddings)

    @property
    def end_id(self) -> int:
        return self._segmenter.tokenizer.eos_id

    def see(self, rgb: NDArray[np.uint8]) -> Seen:
        encoded = self._segmenter.encode(rgb)
        embedding = encoded.features.embedding
        assert embedding is not None
        return Seen(encoded.features.tokens, embedding)

    def propose_with(self, proposer: Proposer, arrangement: Arrangement) -> None:
        """Set another proposer, and what is kept of its proposals. To be called before the first frame."""
        self._proposer, self._arrangement = proposer, arrangement

    def propose(self, rgb: NDArray[np.uint8], seen: Seen) -> Proposals:
        """The proposals of a frame: the things that the model sees, each drawn, or another proposer's."""
        image = EncodedImage(rgb, Features(seen.tokens, seen.features), self.new_cache(), 0.0)
        return self._arrangement.of(self._proposer.propose(image))

    def vocabulary(self, rgb: NDArray[np.uint8], seen: Seen, proposals: Proposals) -> Vocabulary:
        """Proposals that were not drawn by this model are described by the class that it sees under each."""
        size = (rgb.shape[0], rgb.shape[1])
        crops = list(packed(proposals))
        if proposals.embeddings is None:
            prompts = self._prompts_of(seen.features, crops, size)
        else:
            prompts = torch.from_numpy(np.ascontiguousarray(proposals.embeddings, np.float32))
        channels = self._drawn.class_prompts.shape[1]
        if prompts.shape[1:] != (channels,):
            raise CommandError(
                f"the proposals' embeddings have the shape {tuple(prompts.shape)}; {self.name} reads mask prompts (N, "
                f"{channels}): leave the embeddings out"
            )
        places = places_of(crops, size) if crops else np.zeros((len(prompts), 6), np.float32)
        where = torch.from_numpy(places).to(self.device)
        return PointedVocabulary(self._segmenter, self._pointer, seen.tokens[0], prompts.to(self.device), where)

    def _prompts_of(self, embedding: Tensor, crops: Sequence[MaskCrop], size: Size) -> Tensor:
        """(N, C) prompts of masks from elsewhere: of the class that is seen most under each, and of its middle."""
        lisa = self._segmenter.lisa
        probabilities = tower_of(lisa).class_map(embedding).float()  # (1 + classes, g, g)
        weights = square_weights(crops, size, probabilities.shape[-1]).to(probabilities.device)
        labels = (weights.flatten(1) @ probabilities[1:].flatten(1).T).argmax(1)  # (N,)
        places = torch.tensor([crop.centroid for crop in crops], device=self.device).reshape(-1, 2) / max(size)
        encoding = lisa.sam.shared_image_embedding
        return self._drawn.class_prompts[labels] + encoding(places.to(lisa.dtype)).float()

    def prompt(self, messages: Sequence[Message], proposals: int) -> list[int]:
        del proposals
        turns: list[Turn] = []
        mentioned: list[int] = []
        for question, answer in zip(messages[::2], [*messages[1::2], None], strict=True):
            text = None if answer is None else answer.text.replace(MENTION, self._seg)
            mentioned += [] if answer is None else answer.proposals
            turns.append(Turn(question.text.replace(MENTION, ""), text))
        segmenter = self._segmenter
        prompt = build_prompt(turns, segmenter.template, im_start_end=segmenter.spec.image_start_end)
        first, rows = segmenter.lisa.llama.config.vocab_size, iter(mentioned)
        ids: list[int] = []
        for i in segmenter.tokenizer.encode_prompt(prompt.text, prompt.literal):
            if i == IMAGE_ID:
                ids += [IMAGE_ID] * segmenter.lisa.vision_tower.num_tokens
            else:
                ids.append(first + next(rows) if i == self._seg_id else i)
        return ids

    def pieces(self, ids: Sequence[int], proposals: int) -> tuple[list[str], list[int]]:
        del proposals
        segmenter = self._segmenter
        first = segmenter.lisa.llama.config.vocab_size
        mentions = [i - first for i in ids if i >= first]
        text = segmenter.tokenizer.answer_text(self._seg_id if i >= first else i for i in ids)
        return text.split(self._seg), mentions

    def new_cache(self) -> PrefixCache:
        return self._segmenter.lisa.new_cache()

    def read(self, ids: Tensor, vocabulary: Vocabulary, tokens: Tensor | None, cache: PrefixCache) -> Tensor:
        assert isinstance(vocabulary, PointedVocabulary)
        lisa = self._segmenter.lisa
        chosen = ids >= vocabulary.first
        words = ids.masked_fill(chosen, self._seg_id)
        embedded = lisa.embed(words[None], None if tokens is None else tokens[None])[0]  # (L, H)
        if chosen.any():
            embedded[chosen] += vocabulary.rows[ids[chosen] - vocabulary.first].to(embedded.dtype)
        return lisa.read(embedded[None], cache)[0]


def load_extractor(
    base: Path,
    trained: Path | None,
    name: str,
    *,
    device: str,
    precision: str,
    proposing: ProposerSettings | None,
    progress: Callable[[float], None] | None,
) -> Extractor:
    """Load a demo model as an extractive engine.

    Args:
        base: Folder of the demo model.
        trained: File of what was trained; None: the nearest proposal is chosen.
        name: Of the model.
        device: auto, cpu, cuda or cuda:N.
        precision: A number format.
        proposing: What proposes; None: the things that the model sees, each drawn.
        progress: Called with the loaded share, in [0, 1].

    Raises:
        CheckpointError: A file is damaged or of another model.
        ConfigError: The precision cannot be used, or the model recognises no classes.
        DeviceError: The device does not exist.
        OutOfMemory: The device has too little memory.
    """
    segmenter = Segmenter.from_checkpoint(base, device=device, precision=precision, progress=progress)
    tensors = {} if trained is None else {n: t.float().clone() for n, t in iterate_tensors([trained])}
    class_prompts = tensors.pop("class_prompts", None)
    own = proposing is None or proposing.name in ("", "drawn")
    settings = dict(proposing.options) if proposing is not None and own else {}
    check_options(settings, DrawnOptions.__dataclass_fields__, "drawn")
    drawn = Drawn(segmenter, DrawnOptions(**settings), class_prompts)
    pointer = Pointer(drawn.class_prompts.shape[1], segmenter.lisa.llama.config.hidden_size)
    with torch.inference_mode():
        _merge(segmenter, pointer, tensors, trained or base)
    reader = SmallReader(segmenter, drawn, pointer.to(segmenter.device).eval().requires_grad_(False), name)
    if proposing is not None:
        reader.propose_with(drawn if own else proposing.load(segmenter), proposing.arrangement)
    return Extractor(reader, segmenter.precision, reader.propose)


def _merge(segmenter: Segmenter, pointer: Pointer, tensors: dict[str, Tensor], file: Path) -> None:
    """Give the model what was trained. Raises CheckpointError where it does not fit."""
    weights = dict(segmenter.lisa.named_parameters())
    pairs: dict[str, dict[str, Tensor]] = {}
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := LORA.fullmatch(name):
            pairs.setdefault(f"{match[1]}.weight", {})[match[2]] = tensor
        elif name.startswith("pointer."):
            own[name.removeprefix("pointer.")] = tensor
        elif name in weights and weights[name].shape == tensor.shape:
            weights[name].copy_(tensor)
        else:
            raise CheckpointError(f"{file} does not fit its base: {name} is unknown or of another shape")
    try:
        for name, pair in pairs.items():
            down, up = (pair[which].to(weights[name].device) for which in "AB")
            weights[name].copy_(fold(weights[name], down, up, 1.0))
        if tensors:
            pointer.load_state_dict(own)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{file} does not fit its base: {error}") from error
