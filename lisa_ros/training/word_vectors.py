"""Word vectors for a new language model: a word that training never says lies near its likes from the start.

From WordLlama (Miller, 2024; MIT) and, for what words people use, wordfreq (Speer, 2022): ``pip install wordllama
wordfreq``. Only the recipe of the packaged model needs them; nothing of either is needed to run a model.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lisa_ros.errors import ConfigError
from lisa_ros.tokenizer import Tokenizer


def common_words(count: int) -> list[str]:
    """The ``count`` most frequent English words of three letters or more. Raises ConfigError without wordfreq."""
    _folder("wordfreq")
    import wordfreq

    words = wordfreq.top_n_list("en", 2 * count)
    return [word for word in words if len(word) > 2 and word.isascii() and word.isalpha()][:count]


def word_vectors(tokenizer: Tokenizer, width: int, std: float) -> Tensor:
    """(pieces, width) float32: what each of the tokenizer's pieces means; pieces that are no word are drawn at random.

    std: root mean square of the vectors' elements. Wider vectors than ``width`` are cut to their principal components.
    Raises ConfigError without wordllama.
    """
    words = [piece.lstrip("\u2581") for piece in tokenizer.pieces]
    at = torch.tensor([i for i, word in enumerate(words) if len(word) > 2 and word.isalpha()])
    found = _meanings([words[i] for i in at])
    found = found - found.mean(0)
    if found.shape[1] > width:
        found = found @ torch.pca_lowrank(found, width, center=False, niter=4)[2]
    vectors = torch.randn(len(tokenizer), width)
    vectors[at, : found.shape[1]] = found / found.square().mean().sqrt()
    return vectors * std


def _meanings(words: list[str]) -> Tensor:
    """(words, 256): the mean over a word's pieces, as WordLlama pools. Its own loader (0.4) asks the hub for files that
    lie beside it, so they are read here."""
    from tokenizers import Tokenizer as PieceReader

    folder = _folder("wordllama")
    table = load_file(folder / "weights" / "l2_supercat_256.safetensors")["embedding.weight"].float()
    reader = PieceReader.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    return torch.stack([table[reader.encode(word, add_special_tokens=False).ids].mean(0) for word in words])


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(f"the recipe's common_words need {package}: pip install wordllama wordfreq")
    return Path(found.origin).parent
