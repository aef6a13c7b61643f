"""Text and ids of an extractive model whose tokenizer is transformers': prompts, literal words, answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoTokenizer

from lisa_ros.errors import CheckpointError, CommandError
from lisa_ros.lisa.tokenizer import IMAGE, IMAGE_ID

MENTION = "\ufdd1"
"""Stands for a mask word in a text; Unicode guarantees that no text has this character."""
_BREAK = "\ufdd0"
MASK_WORDS = 999
"""The reference names so many."""


def mask_word(number: int) -> str:
    """The reference's word for proposal ``number``, from 1. The leading blank belongs to it."""
    return f" <SEG_MASK_{number}>"


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Args:
        text: Its words. MENTION stands for a mask word.
        proposals: Index of the proposal of each MENTION.
        literal: No special token is read in the text: it is a person's.
    """

    text: str
    proposals: tuple[int, ...] = ()
    literal: bool = True


class Words:
    """A tokenizer, with the chat template.

    Args:
        tokenizer: Of transformers.
        end: Text that ends an answer.
        name: Of the model, for errors.
        named_masks: Whether the mask words have names that a text can hold, as in the reference.
    """

    def __init__(self, tokenizer: Any, end: str, name: str, *, named_masks: bool = False):
        self._tokenizer = tokenizer
        self._name = name
        image = tokenizer.convert_tokens_to_ids(IMAGE)
        if image is None or image == tokenizer.unk_token_id:
            raise CheckpointError(f"{name}: the tokenizer has no {IMAGE}; download the model again")
        if not tokenizer.chat_template:
            raise CheckpointError(f"{name}: the tokenizer has no chat_template; put it into tokenizer_config.json")
        self.image_id = int(image)
        special = [str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, sorted({*special, IMAGE}, key=len, reverse=True))))
        self._image = re.compile(re.escape(IMAGE))
        self._numbers: dict[int, int] = {}
        if named_masks:
            names = [mask_word(number) for number in range(1, MASK_WORDS + 1)]
            tokenizer.add_tokens(names)
            self._numbers = {i: n for n, i in enumerate(tokenizer.convert_tokens_to_ids(names), 1)}
        tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in (_BREAK, MENTION)])
        self._break, self._mention = (int(tokenizer.convert_tokens_to_ids(mark)) for mark in (_BREAK, MENTION))
        self.end = end
        self.end_id = self.encode(end)[0]
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self.unknown_id = int(tokenizer.unk_token_id if tokenizer.unk_token_id is not None else self.pad_id)
        self._hidden = {*tokenizer.all_special_ids, self.end_id, self._break} - {self._mention}

    @classmethod
    def from_folder(cls, folder: Path, end: str, name: str, *, named_masks: bool = False) -> Words:
        """Read the tokenizer of a folder.

        Raises:
            CheckpointError: It is missing, damaged, or has no ``<image>`` or no chat template.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # transformers has no common type
            raise CheckpointError(
                f"the tokenizer in {folder} cannot be read: {' '.join(str(error).split())}"
            ) from error
        return cls(tokenizer, end, name, named_masks=named_masks)

    @property
    def first(self) -> int:
        """Id of the first proposal in the grown vocabulary."""
        return self.image_id + 1

    def prompt(
        self, messages: Sequence[Message], proposals: int, num_image_tokens: int, *, open: bool = True
    ) -> list[int]:
        """Ids of a conversation in the grown vocabulary.

        Args:
            messages: Question, answer, question, ...
            proposals: N of the picture.
            num_image_tokens: Each ``<image>`` of the first question becomes so many IMAGE_ID.
            open: The answer to the last question is yet to come.

        Raises:
            CommandError: A text names a proposal that the picture does not have.
        """
        text = self.render([self._safe(message) for message in messages], open=open)
        mentioned = iter([index for message in messages for index in message.proposals])
        ids: list[int] = []
        for token in self.encode(text):
            if token == self.image_id:
                ids += [IMAGE_ID] * num_image_tokens
            elif token == self._mention:
                ids.append(self.first + next(mentioned))
            elif token != self._break:
                ids.append(self._grown(token, proposals))
        return ids

    def render(self, texts: Sequence[str], *, open: bool = False) -> str:
        """The conversation as one text, by the chat template; ``<image>`` stands before the first question."""
        roles = ("user", "assistant")
        chat = [
            {"role": roles[number % 2], "content": (f"{IMAGE}\n" if number == 0 else "") + text}
            for number, text in enumerate(texts)
        ]
        return str(self._tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=open))

    def encode(self, text: str) -> list[int]:
        """The tokenizer's own ids of a text, special tokens included."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def pieces(self, ids: Iterable[int], proposals: int) -> tuple[list[str], list[int]]:
        """An answer as texts with a proposal between each two.

        Args:
            ids: Of the grown vocabulary.
            proposals: N of the picture.

        Returns:
            M + 1 texts without special tokens, and the indexes of M proposals. A phantom row reads as the reference's
            word for it.
        """
        own: list[int] = []
        marks: list[int] = []
        for i in ids:
            if i >= self.first:
                marks.append(i - self.first)
                own.append(self._mention)
            elif i not in self._hidden:
                own.append(i)
        texts = str(self._tokenizer.decode(own, skip_special_tokens=False)).split(MENTION)
        joined, chosen = texts[:1], []
        for index, text in zip(marks, texts[1:], strict=True):
            if index < proposals:
                chosen.append(index)
                joined.append(text)
            else:
                joined[-1] += mask_word(index + 1) + text
        return joined, chosen

    def _safe(self, message: Message) -> str:
        """The text, with a mark inside of everything that must not be read as a special token."""
        text = message.text.replace(_BREAK, "")
        if not message.proposals:
            text = text.replace(MENTION, "")
        pattern = self._special if message.literal else self._image
        return pattern.sub(lambda match: f"{match[0][0]}{_BREAK}{match[0][1:]}", text)

    def _grown(self, token: int, proposals: int) -> int:
        """Id of the tokenizer to id of the grown vocabulary."""
        if number := self._numbers.get(token):
            if number > proposals:
                raise CommandError(
                    f"the command names{mask_word(number)}, but the picture has {proposals} proposals; name one of them"
                )
            return self.first + number - 1
        return token if token < self.first else token + proposals
