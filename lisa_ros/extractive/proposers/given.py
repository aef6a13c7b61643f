"""Proposer ``given``: masks from outside, of a file or of another node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lisa_ros.data.given_masks import read_masks
from lisa_ros.engine.api import Proposals
from lisa_ros.engine.options import check_options
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter


def load(*, segmenter: Segmenter, options: dict[str, Any]) -> Given:
    """The factory. Option ``masks``: a file, read for every frame; without it each command must bring its own."""
    del segmenter
    check_options(options, ("masks",), "given")
    file = options.get("masks")
    if file is not None and not isinstance(file, str):
        raise ConfigError(f"option masks is {file!r}; give a file: a labels image, an .npz or COCO's .json")
    return Given(Path(file).expanduser() if file else None)


class Given:
    """The proposer.

    Args:
        file: See :func:`lisa_ros.data.given_masks.read_masks`; None: there are no masks but those of a command.
    """

    def __init__(self, file: Path | None = None):
        self._file = file

    def propose(self, image: EncodedImage) -> Proposals:
        """The masks of the file.

        Raises:
            CommandError: There is no file.
            ConfigError: The file cannot be read, or is of a picture of another size.
        """
        if self._file is None:
            raise CommandError("the command brought no proposals, and there is no file of them; give option masks=FILE")
        return read_masks(self._file, image.size)
