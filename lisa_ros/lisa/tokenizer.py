"""LISA's tokenizer: sentencepiece with added tokens, by the rules of the release that trained the checkpoints.

LISA was trained with the slow LlamaTokenizer of transformers 4.31 in its legacy mode. Later releases split the same
text differently: there is an additional or a missing word-begin mark beside every added token. The model then answers
differently. So this module has the old rules, on top of the sentencepiece library:

1. The text is split at the added tokens, longest match first.
2. White space on both sides of ``[SEG]``, ``<im_start>``, ``<im_end>`` and other plain added tokens is removed. Beside
   ``<s>``, ``</s>`` and ``<unk>`` it stays. Since transformers 4.34 it stays everywhere; GSVA's figures are from 4.44.
3. Every remaining piece is encoded on its own, so each begins with its own word-begin mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from lisa_ros.engine.api import Span
from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.weights.substitute import check_link, substitute

IMAGE = "<image>"
IMAGE_ID = -200
"""Placeholder for image tokens among the ids, as in LLaVA."""


class Tokenizer:
    """Text to ids and back. Thread-safe, immutable.

    Args:
        pieces: The sentencepiece model.
        added: Id of each added token.
        strips_blanks: Whether white space beside plain added tokens is removed (rule 2).
    """

    def __init__(self, pieces: SentencePieceProcessor, added: dict[str, int], *, strips_blanks: bool = True):
        self._pieces = pieces
        self._strips_blanks = strips_blanks
        self._control = {pieces.id_to_piece(i): i for i in (pieces.unk_id(), pieces.bos_id(), pieces.eos_id())}
        self._added = dict(added)
        self._texts = {i: text for text, i in (self._control | self._added).items()}
        self._split = re.compile(
            "|".join(re.escape(text) for text in sorted(self._texts.values(), key=len, reverse=True))
        )
        self.bos_id: int = pieces.bos_id()
        self.eos_id: int = pieces.eos_id()
        self.unk_id: int = pieces.unk_id()

    @classmethod
    def from_folder(cls, folder: Path, *, strips_blanks: bool = True) -> Tokenizer:
        """Read ``tokenizer.model`` and the added tokens of a checkpoint folder.

        Args:
            folder: The checkpoint's.
            strips_blanks: As in the constructor.

        Raises:
            CheckpointError: A file is missing or invalid.
        """
        model = folder / "tokenizer.model"
        check_link(model)
        if not model.is_file():
            raise CheckpointError(
                f"{model} is missing; it is the sentencepiece model of the checkpoint: download the checkpoint again"
            )
        try:
            pieces = SentencePieceProcessor(model_file=str(model))
        except (OSError, RuntimeError) as error:
            raise CheckpointError(substitute(model) or f"{model} is not a sentencepiece model: {error}") from error
        return cls(pieces, _added_tokens(folder, pieces.get_piece_size()), strips_blanks=strips_blanks)

    def __len__(self) -> int:
        """Least number of rows of the embedding table."""
        return max(self._pieces.get_piece_size(), *(i + 1 for i in self._added.values()), 0)

    def id_of(self, text: str) -> int | None:
        """Id of an added or control token such as ``[SEG]``; None where the checkpoint has no such token."""
        return self._added.get(text, self._control.get(text))

    def encode(self, text: str, literal: Sequence[Span] = ()) -> list[int]:
        """Ids of a text, without a leading ``<s>``.

        Args:
            text: The text.
            literal: Spans (begin, end) of characters of the user's words. No added token is read in them: ``[SEG]``
                there is five characters of text.
        """
        ids: list[int] = []
        for piece, token in self._segments(text, literal):
            ids.extend([token] if token is not None else self._pieces.encode(piece))
        return ids

    def encode_prompt(self, text: str, literal: Sequence[Span] = ()) -> list[int]:
        """Ids of a prompt: ``<s>`` first, and ``IMAGE_ID`` for every ``<image>`` outside the literal spans.

        Args:
            text: The prompt.
            literal: As in :meth:`encode`.
        """
        ids, begin = [self.bos_id], 0
        for match in re.finditer(re.escape(IMAGE), text):
            if _touches(match.span(), literal):
                continue
            ids += [*self.encode(text[begin : match.start()], _shift(literal, begin)), IMAGE_ID]
            begin = match.end()
        return ids + self.encode(text[begin:], _shift(literal, begin))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, exactly as the reference prints it: with spaces around added tokens."""
        texts: list[str] = []
        run: list[int] = []
        for i in ids:
            if i in self._texts and i not in self._control.values():
                texts += [self._decode_run(run)] if run else []
                texts.append(self._texts[i])
                run = []
            else:
                run.append(i)
        texts += [self._decode_run(run)] if run else []
        return " ".join(texts)

    def answer_text(self, ids: Iterable[int]) -> str:
        """Text of an answer for users: without ``</s>``, and without a space between ``[SEG]`` and a full stop."""
        return tidy(self.decode(i for i in ids if i not in (self.bos_id, self.eos_id)))

    def exact_text(self, ids: Iterable[int]) -> str:
        """Text of an answer that gives the same ids again, for a tokenizer that keeps blanks: none is added to it."""
        texts: list[str] = []
        run: list[int] = []
        for i in ids:
            if self.is_added(i):
                texts += [self._pieces.decode(run), self._texts[i]]
                run = []
            elif i not in (self.bos_id, self.eos_id):
                run.append(i)
        return "".join([*texts, self._pieces.decode(run)])

    def is_added(self, token: int) -> bool:
        """Whether an id is an added token such as ``[SEG]``; ``<s>``, ``</s>`` and ``<unk>`` are not."""
        return token in self._texts and token not in self._control.values()

    def begins_word(self, token: int) -> bool:
        """Whether the piece of an id begins with the word-begin mark."""
        return token < self._pieces.get_piece_size() and self._pieces.id_to_piece(token).startswith("\u2581")

    def _segments(self, text: str, literal: Sequence[Span]) -> list[tuple[str, int | None]]:
        parts: list[tuple[str, int | None]] = []
        begin = 0
        for match in self._matches(text, literal):
            parts += [(text[begin : match.start()], None), (match.group(), self.id_of(match.group()))]
            begin = match.end()
        parts.append((text[begin:], None))
        stripped = []
        for index, (piece, token) in enumerate(parts):
            if token is None and self._strips_blanks:
                if index > 0 and parts[index - 1][0] in self._added:
                    piece = piece.lstrip()
                if index + 1 < len(parts) and parts[index + 1][0] in self._added:
                    piece = piece.rstrip()
            if piece:
                stripped.append((piece, token))
        return stripped

    def _matches(self, text: str, literal: Sequence[Span]) -> Iterable[re.Match[str]]:
        position = 0
        while match := self._split.search(text, position):
            if _touches(match.span(), literal):
                position = match.start() + 1
            else:
                yield match
                position = match.end()

    def _decode_run(self, ids: list[int]) -> str:
        text, after_control = "", False
        run: list[int] = []
        for index, i in enumerate(ids):
            if i in self._control.values():
                if index > 0 and not after_control:
                    text += " "
                text += self._pieces.decode(run) + self._texts[i]
                run, after_control = [], True
            else:
                run.append(i)
                after_control = False
        return text + self._pieces.decode(run)


def tidy(text: str) -> str:
    """Normalise the blanks of decoded text: single ones, and none between ``[SEG]`` or ``<ins>`` and a full stop."""
    text = re.sub(r" {2,}", " ", text)
    return re.sub(r"(?:(?<=\])|(?<=ins>)) (?=[.,;:!?])", "", text).strip()


def _added_tokens(folder: Path, pieces: int) -> dict[str, int]:
    """Tokens beyond the sentencepiece model: added_tokens.json, or the newer table in tokenizer_config.json."""
    for name in ("added_tokens.json", "tokenizer_config.json"):
        check_link(folder / name)
    try:
        if (folder / "added_tokens.json").is_file():
            return _checked(json.loads((folder / "added_tokens.json").read_text("utf-8-sig")))
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8-sig"))
        table = {int(i): str(token["content"]) for i, token in config.get("added_tokens_decoder", {}).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the added tokens in {folder} cannot be read: {error}") from error
    return _checked({text: i for i, text in table.items() if i >= pieces})


def _checked(added: dict[str, int]) -> dict[str, int]:
    tokens = {str(text): int(i) for text, i in added.items()}
    wrong = [f"{text!r}: {i}" for text, i in tokens.items() if not text or i < 0]
    if wrong:
        raise CheckpointError(f"added tokens must have a text and an id of 0 or more; invalid: {', '.join(wrong)}")
    return tokens


def _touches(span: Span, spans: Sequence[Span]) -> bool:
    return any(begin < span[1] and span[0] < end for begin, end in spans)


def _shift(spans: Sequence[Span], begin: int) -> list[Span]:
    return [(a - begin, b - begin) for a, b in spans]
