"""Where a model folder comes from: one revision of a repository of the Hugging Face hub, or a folder here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from lisa_ros.errors import CheckpointError
from lisa_ros.lisa.weights.substitute import REPOSITORY, check_link

SOURCE = re.compile(rf"{REPOSITORY.pattern}(/[\w-][\w.-]*)?")
"""OWNER/NAME of a repository, or OWNER/NAME/FOLDER."""

RECORD = "fetch.json"
"""What a fetched folder says about its origin: source, revision, date, files with size and sha256."""


@dataclass(frozen=True)
class HubRepository:
    """One revision of a repository, or of a folder in it.

    Args:
        source: OWNER/NAME, or OWNER/NAME/FOLDER.
        revision: A commit.
        sizes: Bytes by file name.
        checksums: sha256 of the files that the hub states.
    """

    source: str
    revision: str
    sizes: dict[str, int]
    checksums: dict[str, str]

    @property
    def repository(self) -> str:
        """OWNER/NAME."""
        return "/".join(self.source.split("/")[:2])

    @property
    def folder(self) -> str:
        """Begins the names of its files in the repository: empty, or FOLDER/."""
        return _folder(self.source)

    @classmethod
    def look_up(cls, source: str, revision: str | None) -> HubRepository:
        """Resolve ``revision`` (a branch, a tag or a commit; None: the newest) to a commit. Raises CheckpointError."""
        repository, folder = "/".join(source.split("/")[:2]), _folder(source)
        info = _asking_hub(repository, lambda: HfApi().model_info(repository, revision=revision, files_metadata=True))
        named = {file.rfilename.removeprefix(folder): file for file in info.siblings or []}
        # Only plain names: a repository does not decide where on this machine a file goes.
        files = {
            name: file
            for name, file in named.items()
            if file.rfilename == folder + name and "/" not in name and "\\" not in name
        }
        return cls(
            source=source,
            revision=str(info.sha),
            sizes={name: file.size or 0 for name, file in files.items()},
            checksums={name: file.lfs.sha256 for name, file in files.items() if file.lfs},
        )

    def files(self, names: Sequence[str], staging: Path) -> dict[str, Path]:
        """Download files into ``staging``, with progress bars; an interrupted download resumes where it stopped.

        Returns:
            Name -> the file here.

        Raises:
            CheckpointError: The hub does not answer, or does not give them.
        """
        _asking_hub(
            self.repository,
            lambda: snapshot_download(
                self.repository,
                revision=self.revision,
                local_dir=staging,
                allow_patterns=[escape(self.folder + name) for name in names],
            ),
        )
        found = {name: staging / self.folder / name for name in names}
        # Without a connection, the client is content with what is in the folder.
        if missing := [name for name, file in found.items() if not file.is_file()]:
            raise CheckpointError(
                f"{self.source}: {missing[0]} could not be had from the hub; run the same command again, it goes on "
                "where it stopped"
            )
        return found

    def checksum(self, name: str) -> str | None:
        return self.checksums.get(name)

    def __str__(self) -> str:
        return f"{self.source} at {self.revision}"


@dataclass(frozen=True)
class LocalFolder:
    """A model folder on this machine; only read."""

    source: str
    sizes: dict[str, int] = field(default_factory=dict)
    revision: str | None = None

    @classmethod
    def look_up(cls, folder: Path) -> LocalFolder:
        for file in folder.iterdir():
            check_link(file)
        sizes = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        return cls(str(folder.resolve()), sizes)

    def files(self, names: Sequence[str], staging: Path) -> dict[str, Path]:
        """Name -> the file, where it is; ``staging`` stays empty."""
        return {name: Path(self.source) / name for name in names}

    def checksum(self, name: str) -> str | None:
        return sha256(Path(self.source) / name)

    def __str__(self) -> str:
        return self.source


Origin = HubRepository | LocalFolder


def _folder(source: str) -> str:
    """``FOLDER/`` of a source OWNER/NAME/FOLDER, else empty."""
    return "".join(f"{part}/" for part in source.split("/")[2:])


def find_origin(source: str, revision: str | None = None) -> Origin:
    """A folder where ``source`` is one, else the repository of that name or a folder in it. Raises CheckpointError."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise CheckpointError(f"{source} is a folder and has no revisions; leave --revision out")
        return LocalFolder.look_up(folder)
    if not SOURCE.fullmatch(source):
        raise CheckpointError(
            f"'{source}' is neither a folder here nor the name of a repository, such as xinlai/LISA-7B-v1"
        )
    return HubRepository.look_up(source, revision)


def sha256(file: Path, advance: Callable[[int], object] = lambda done: None) -> str:
    """Hexadecimal sha256 of a file. advance: called with the number of bytes done since the last call."""
    digest = hashlib.sha256()
    with open(file, "rb") as data:
        while chunk := data.read(1 << 22):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _asking_hub(source: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except GatedRepoError as error:
        raise CheckpointError(
            f"{source} wants its terms accepted: do so on its page, then log in with 'hf auth login'"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{source} has no such revision; leave --revision out for the newest") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"the hub has no {source}; mind the spelling or, where it is private, log in with 'hf auth login'"
        ) from error
    except Exception as error:
        # The hub's client has changed its HTTP library twice and raises whatever that raises.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{source} could not be had from the hub: {reason}; run the same command again, it goes on where it stopped"
        ) from error
