"""Several data sets, drawn from by rates."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lisa_ros.data.picture import BadExample, SkipLog
from lisa_ros.errors import ConfigError
from lisa_ros.training.datasets.example import Dataset, Example
from lisa_ros.training.phrasing import LISA, Phrasing

KINDS = {
    "reasonseg": "lisa_ros.training.datasets.reasonseg:ReasonSeg",
    "refer": "lisa_ros.training.datasets.refer:Refer",
    "grefcoco": "lisa_ros.training.datasets.refer:GRefCoco",
    "refzom": "lisa_ros.training.datasets.refer:RefZom",
    "ade20k": "lisa_ros.training.datasets.ade20k:ade20k",
    "cocostuff": "lisa_ros.training.datasets.cocostuff:cocostuff",
    "paco": "lisa_ros.training.datasets.parts:Parts",
    "pascal_part": "lisa_ros.training.datasets.parts:Parts",
    "llava_instruct": "lisa_ros.training.datasets.llava_instruct:LlavaInstruct",
    "scenes": "lisa_small.training.dataset:Scenes",
}
"""A configuration's ``kind`` -> module and maker of the data set."""

_PATHS = ("images", "explanations")
_TRIES = 100


class Mixture:
    """Random examples of several data sets.

    What cannot be used is named, once, and another example is drawn. A hundred in a row are no bad luck: ConfigError.

    Args:
        datasets: At least one.
        rates: How often each is drawn, relative to the others.
    """

    def __init__(self, datasets: Sequence[Dataset], rates: Sequence[float]) -> None:
        if not datasets or len(datasets) != len(rates) or min(rates) < 0 or sum(rates) <= 0:
            raise ConfigError(f"{len(datasets)} data sets with the rates {list(rates)}; each needs one, not all zero")
        self._datasets, self._rates = list(datasets), list(rates)
        self.name_skipped = SkipLog()

    def draw(self, rng: random.Random, use: Callable[[Example], Any] = lambda example: example) -> Any:
        """``use(example)`` of the first random example that both the data set and ``use`` accept (no BadExample)."""
        reason = ""
        for _ in range(_TRIES):
            dataset = rng.choices(self._datasets, self._rates)[0]
            try:
                return use(dataset.draw(rng))
            except BadExample as error:
                reason = str(error)
                self.name_skipped(reason)
        raise ConfigError(f"{_TRIES} examples in a row cannot be used; the last: {reason}")


def open_mixture(entries: Sequence[Mapping[str, Any]], base: Path, phrasing: Phrasing = LISA) -> Mixture:
    """The mixture that a configuration's ``data`` describes: entries with kind, path, rate (1) and their options.

    base: where relative paths begin. phrasing: the model's questions and answers. Raises ConfigError naming the entry.
    """
    if not isinstance(entries, Sequence) or not entries:
        raise ConfigError("data: at least one data set is needed, each with kind and path")
    datasets, rates = [], []
    for number, entry in enumerate(entries, 1):
        options = dict(entry)
        where = f"data, entry {number}"
        kind, rate = options.pop("kind", None), options.pop("rate", 1.0)
        if kind not in KINDS:
            raise ConfigError(f"{where}: kind '{kind}' is not known; choose one of {', '.join(KINDS)}")
        try:
            rates.append(float(rate))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: the rate '{rate}' is not a number") from error
        datasets.append(_open(kind, options, base, where, phrasing))
    return Mixture(datasets, rates)


def _open(kind: str, options: dict[str, Any], base: Path, where: str, phrasing: Phrasing) -> Dataset:
    module, _, name = KINDS[kind].partition(":")
    maker = getattr(import_module(module), name)
    known = [name for name in inspect.signature(maker).parameters if name != "phrasing"]
    if unknown := set(options) - set(known):
        raise ConfigError(f"{where}: {kind} has no option '{min(unknown)}'; it has {', '.join(known)}")
    for path in ("path", *_PATHS):
        if options.get(path) is not None:
            options[path] = base / Path(str(options[path])).expanduser()
    try:
        return maker(**options, phrasing=phrasing)
    except TypeError as error:
        raise ConfigError(f"{where}: {kind}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
