"""Copy a model from the hub or a folder, pin its revision, check it and convert its pickles to safetensors.

The resulting folder needs no network and has no pickle. Its ``fetch.json`` records the source of every file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open
from tqdm import tqdm

from lisa_ros import __version__
from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.weights.convert import convert
from lisa_ros.lisa.weights.inspect import gigabytes, inspect
from lisa_ros.lisa.weights.origin import RECORD, HubRepository, LocalFolder, Origin, find_origin, sha256
from lisa_ros.lisa.weights.released import RELEASES
from lisa_ros.lisa.weights.spec import Spec, read_clip, read_spec, resolve_tower
from lisa_ros.lisa.weights.tensors import shard_names

_TOWER = "openai/clip-vit-large-patch14"
_STAGING = ".fetch"
_PIN = "pin.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors")
_INDEX = "model.safetensors.index.json"
_KEPT = re.compile(
    r"(config|adapter_config|generation_config|preprocessor_config|processor_config|video_preprocessor_config|tokenizer_config)\.json"
    r"|(special_tokens_map|added_tokens|tokenizer|classes|chat_template|vocab)\.json"
    r"|tokenizer\.model|merges\.txt|vocab\.txt|chat_template\.jinja|(README|LICENSE|NOTICE|USE_POLICY)[\w.]*"
)

Say = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """One folder to write.

    Args:
        origin: Where the files come from.
        out: Folder to write.
        texts: Names of small files, copied unchanged.
        weights: File name in ``out`` -> file name at the origin.
    """

    origin: Origin
    out: Path
    texts: list[str]
    weights: dict[str, str]

    @property
    def staging(self) -> Path:
        """Where downloads wait; kept after an interruption, so that the next run goes on."""
        return self.out / _STAGING

    @property
    def missing(self) -> dict[str, str]:
        """The weights that are not there yet."""
        return {here: there for here, there in self.weights.items() if not (self.out / here).is_file()}

    def bytes_needed(self) -> int:
        """Space that the rest of the job takes at its height: what stays, and one pickle waiting to be converted."""
        sizes = [self.origin.sizes[there] for there in self.missing.values()]
        waiting = [self.origin.sizes[there] for here, there in self.missing.items() if here != there]
        at_its_height = sum(sizes) + (max(waiting, default=0) if isinstance(self.origin, HubRepository) else 0)
        staged = sum(file.stat().st_size for file in self.staging.rglob("*") if file.is_file())
        return max(at_its_height - staged, 0)

    def describe(self) -> str:
        total = sum(self.origin.sizes[there] for there in self.weights.values())
        pickled = any(here != there for here, there in self.weights.items())
        form = "pickled, will become safetensors" if pickled else "safetensors"
        files = "1 weight file" if len(self.weights) == 1 else f"{len(self.weights)} weight files"
        return f"{self.origin}: {gigabytes(total)} in {files} ({form})"


def fetch(source: str, out: Path | None = None, *, revision: str | None = None, say: Say = print) -> Path:
    """Make a folder of safetensors from a repository of the hub or a local folder, with its CLIP tower in it.

    Args:
        source: Repository of the hub, or a folder, which is only read.
        out: Folder to write; None takes a name from the source, in the working directory.
        revision: Branch, tag or commit; None takes that of an interrupted run, else the newest.
        say: Called with each line of progress.

    Returns:
        The folder.

    Raises:
        CheckpointError: The source or ``out`` cannot be used, a file is damaged, or there is too little disk space.
            Existing files of others are not changed.
        OSError: A file cannot be read or written.
    """
    out = (out or _default_out(source)).expanduser()
    earlier = _earlier(out, source)
    if _complete(out) and revision in (None, earlier.get("revision")):
        say(f"{out} is complete already: {source}{_at(earlier)}")
        return out
    if release := RELEASES.get(source):
        say(release.describe())
    origin = find_origin(source, revision or earlier.get("revision"))
    if earlier and origin.revision != earlier.get("revision"):
        raise CheckpointError(f"{out} holds {source}{_at(earlier)}, not {origin.revision}; choose another --out")
    # The tower first: with its checkpoint's record written, a folder is complete.
    _carry_out_all(out, reversed(_plan(origin, out, say)), say)
    problems = inspect(out).problems
    if problems:
        raise CheckpointError(f"{out} was written, but the model in it cannot be used: {'; '.join(problems)}")
    return out


def fetch_parts(parts: Mapping[Path, str], out: Path, say: Say = print) -> None:
    """Make a folder of safetensors for each of several models of transformers.

    Args:
        parts: Folder to write -> repository of the hub, or a folder, which is only read.
        out: Folder that holds them, for the disk space.
        say: Called with each line of progress.

    Raises:
        CheckpointError: As :func:`fetch`.
        OSError: A file cannot be read or written.
    """
    jobs = []
    for folder, source in parts.items():
        earlier = _earlier(folder, source)
        if _complete(folder):
            say(f"{folder} is complete already: {source}{_at(earlier)}")
            continue
        origin = find_origin(source, earlier.get("revision"))
        if not {"config.json", "adapter_config.json"} & origin.sizes.keys():
            raise CheckpointError(f"{origin} has no config.json; it is not a model folder")
        with TemporaryDirectory() as look:
            jobs.append(_job(origin, folder, Path(look)))
    _carry_out_all(out, jobs, say)


# --- what to do ---


def _default_out(source: str) -> Path:
    folder = Path(source).expanduser()
    return Path(folder.resolve().name + "-safetensors" if folder.is_dir() else source.rpartition("/")[2])


def _earlier(out: Path, source: str) -> dict[str, Any]:
    """What an earlier run, finished or not, recorded about ``out``; empty where there was none."""
    origin = str(Path(source).expanduser().resolve()) if Path(source).expanduser().is_dir() else source
    for record in (out / RECORD, out / _STAGING / _PIN):
        if record.is_file():
            earlier = read_json_object(record, CheckpointError)
            if earlier.get("source") != origin:
                raise CheckpointError(f"{out} holds {earlier.get('source')}; choose another folder with --out")
            return earlier
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists and is not from 'lisa fetch'; choose another folder with --out")
    return {}


def _complete(out: Path) -> bool:
    if not (out / RECORD).is_file():
        return False
    files = read_json_object(out / RECORD, CheckpointError).get("files", {})
    return all((out / name).is_file() and (out / name).stat().st_size == file["size"] for name, file in files.items())


def _at(record: dict[str, Any]) -> str:
    return f" at {record['revision']}" if record.get("revision") else ""


def _plan(origin: Origin, out: Path, say: Say) -> list[Job]:
    """The jobs for the model and, where it needs one, its CLIP tower. Looks at small files only."""
    with TemporaryDirectory() as folder:
        look = Path(folder)
        if "config.json" not in origin.sizes:
            raise CheckpointError(f"{origin} has no config.json; it is not a model folder")
        shutil.copyfile(_one_file(origin, "config.json", look / "hub"), look / "config.json")
        if is_clip(look):
            read_clip(look)
            return [_job(origin, out, look)]
        spec = read_spec(look)
        job = _job(origin, out, look)
    if spec.shared_tower is not None:
        return [job]
    # Inside the checkpoint under its short name, where resolve_tower looks.
    inside = out / _tower_name(spec).rstrip("/").rpartition("/")[2]
    if _complete(inside):
        return [job]
    tower = _tower_origin(origin, spec, inside, say)
    if tower is None:
        return [job]
    with TemporaryDirectory() as folder:
        return [job, _job(tower, inside, Path(folder))]


def is_clip(folder: Path) -> bool:
    """Whether a folder holds a CLIP tower alone, by its config.json."""
    config = read_json_object(folder / "config.json", CheckpointError)
    return str(config.get("model_type", "")).startswith("clip")


def _tower_name(spec: Spec) -> str:
    """Name of the tower's repository. Trainers may write a path of their machine, which ends in the name of a tower."""
    name = spec.tower or _TOWER
    last = name.rstrip("/").rpartition("/")[2]
    return f"openai/{last}" if last.startswith("clip-vit-") else name


def _tower_origin(origin: Origin, spec: Spec, inside: Path, say: Say) -> Origin | None:
    """Where the CLIP tower comes from: this machine where it has one, else the hub; None where neither has it."""
    beside = Path(origin.source) if isinstance(origin, LocalFolder) else Path()
    try:
        local = resolve_tower(None, spec, beside)
        # Another tower may go by the same name in the working directory.
        if local is not None and read_clip(local).config.hidden_size == spec.mm_hidden_size:
            return LocalFolder.look_up(local)
    except CheckpointError:
        pass  # not here, so from the hub
    try:
        return find_origin(_tower_name(spec), _earlier(inside, _tower_name(spec)).get("revision"))
    except CheckpointError as error:
        if isinstance(origin, HubRepository):
            raise
        say(f"without its CLIP tower: {error}")
        return None


def _job(origin: Origin, out: Path, look: Path) -> Job:
    texts = sorted(name for name in origin.sizes if _KEPT.fullmatch(name))
    for single in _WEIGHTS:
        index = f"{single}.index.json"
        if index in origin.sizes:
            shards = _shards(_one_file(origin, index, look / "hub"), origin)
            indexes = [index] if index == _INDEX else []
            return Job(origin, out, texts + indexes, {_safetensors_name(shard): shard for shard in shards})
        if single in origin.sizes:
            return Job(origin, out, texts, {_safetensors_name(single): single})
    raise CheckpointError(f"{origin} has no weights; looked for {' and '.join(_WEIGHTS)}, alone or with .index.json")


def _shards(index: Path, origin: Origin) -> list[str]:
    shards = shard_names(index)
    if missing := [name for name in shards if name not in origin.sizes]:
        raise CheckpointError(f"{origin} lacks shards that {index.name} names: {', '.join(missing)}")
    return shards


def _safetensors_name(name: str) -> str:
    if name.endswith(".safetensors"):
        return name
    return name.removesuffix(".bin").removeprefix("pytorch_").removesuffix(".pth") + ".safetensors"


def _check_space(out: Path, needed: int, say: Say) -> None:
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise CheckpointError(
            f"{out} needs {gigabytes(needed)} more, {there} has {gigabytes(free)} free; make room, or choose another "
            "disk with --out"
        )
    say(f"{out}: needs {gigabytes(needed)} of disk, {gigabytes(free)} are free")


# --- doing it ---


def _carry_out_all(out: Path, jobs: Iterable[Job], say: Say) -> None:
    jobs = list(jobs)
    for job in jobs:
        say(job.describe())
    _check_space(out, sum(job.bytes_needed() for job in jobs), say)
    for job in jobs:
        _pin(job)
    for job in jobs:
        _carry_out(job)


def _pin(job: Job) -> None:
    """Note what the job began with, so that a run after an interruption takes the same revision."""
    job.staging.mkdir(parents=True, exist_ok=True)
    _write_json(job.staging / _PIN, {"source": job.origin.source, "revision": job.origin.revision})


def _carry_out(job: Job) -> None:
    for name, file in job.origin.files(job.texts, job.staging).items():
        with replacing(job.out / name) as unfinished:
            shutil.copyfile(file, unfinished)
    ready = [there for here, there in job.missing.items() if here == there]
    for name, file in (job.origin.files(ready, job.staging) if ready else {}).items():
        _take_weights(job, file, name)
    # A pickle at a time: it and its copy are on the disk together.
    for here, there in job.missing.items():
        _take_weights(job, _one_file(job.origin, there, job.staging), here)
    if len(job.weights) > 1 and not (job.out / _INDEX).is_file():
        _write_json(job.out / _INDEX, _index(job))
    _write_json(job.out / RECORD, _record(job))
    shutil.rmtree(job.staging)


def _one_file(origin: Origin, name: str, staging: Path) -> Path:
    return origin.files([name], staging)[name]


def _take_weights(job: Job, file: Path, here: str) -> None:
    """Bring one weight file in, as safetensors; a downloaded pickle goes as soon as its copy is proved equal."""
    there, target = job.weights[here], job.out / here
    checksum = job.origin.checksum(there)
    downloaded = isinstance(job.origin, HubRepository)
    if downloaded and checksum is not None:
        with _bar(f"checking {there}", file.stat().st_size) as bar:
            if sha256(file, bar.update) != checksum:
                file.unlink()
                raise CheckpointError(f"{there} arrived damaged (its sha256 is not {checksum}); run the command again")
    if here != there:
        with _bar(f"converting {there}", 2 * file.stat().st_size) as bar:
            convert(file, target, bar.update)
    else:
        with replacing(target) as unfinished:
            if downloaded:
                file.replace(unfinished)
            else:
                shutil.copyfile(file, unfinished)
                if sha256(unfinished) != checksum:
                    raise CheckpointError(f"{target} differs from {file} after copying; is the disk faulty?")
    if downloaded:
        file.unlink(missing_ok=True)


def _index(job: Job) -> dict[str, Any]:
    places: dict[str, str] = {}
    for name in job.weights:
        with safe_open(job.out / name, framework="pt") as tensors:
            places |= dict.fromkeys(tensors.keys(), name)
    total = sum((job.out / name).stat().st_size for name in job.weights)
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}


def _record(job: Job) -> dict[str, Any]:
    """What fetch.json says. ``from``: the pickle a file was converted from, with the sha256 its origin states."""
    files: dict[str, Any] = {}
    names = [*job.texts, *job.weights, *([_INDEX] if len(job.weights) > 1 and _INDEX not in job.texts else [])]
    total = sum((job.out / name).stat().st_size for name in names)
    with _bar(f"noting checksums of {job.out.name}", total) as bar:
        for name in sorted(names):
            path = job.out / name
            files[name] = {"size": path.stat().st_size, "sha256": sha256(path, bar.update)}
    for here, there in job.weights.items():
        if here != there:
            files[here]["from"] = {"name": there, "sha256": job.origin.checksum(there)}
    return {
        "source": job.origin.source,
        "revision": job.origin.revision,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "written_by": f"lisa_ros {__version__}",
        "files": files,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _bar(what: str, total: int) -> tqdm:
    """A progress bar in bytes; only on a terminal, so that logs stay readable."""
    return tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=None, leave=False)
