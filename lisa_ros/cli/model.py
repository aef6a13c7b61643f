"""The arguments ``--model``, ``--device``, ... that several verbs share, and loading the engine that they name."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import lisa_ros
from lisa_ros.engine.api import TARGETS, Ask
from lisa_ros.engine.options import PRECISIONS, parse_options
from lisa_ros.engine.registry import is_url
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import ConfigError
from lisa_ros.plain_text import escaped
from lisa_ros.process_tuning import keep_freed_buffers

if TYPE_CHECKING:
    from lisa_ros.remote.tasks import Tasks

SHORTHANDS = ("vision_tower", "conversation")
"""Options of the engine LISA that have an argument of their own."""


def add_model_arguments(parser: argparse.ArgumentParser, positional: bool = False) -> None:
    """Add the arguments that :func:`load` reads. positional: the model is given without ``--model``."""
    model = parser.add_argument_group("model")
    help_ = "folder, URL, or package.module:callable (default: the bundled demo model)"
    if positional:
        model.add_argument("model", nargs="?", default="", metavar="MODEL", help=help_)
    else:
        model.add_argument("--model", default="", metavar="MODEL", help=help_)
    model.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    model.add_argument("--precision", default="auto", help=", ".join(PRECISIONS))
    model.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the engine; may be repeated"
    )
    model.add_argument(
        "--vision-tower",
        metavar="DIR",
        help="folder of the CLIP tower, if the one named by the checkpoint is missing",
    )
    model.add_argument(
        "--conversation",
        metavar="NAME",
        help="conversation template: llava_v1, v1, llava_llama_2, cores_v1, cores_llama_2 or compact (default: the "
        "checkpoint's)",
    )


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The engine's options. Raises ConfigError for one that is malformed or given twice."""
    given = parse_options(arguments.option)
    for name in SHORTHANDS:
        value = getattr(arguments, name)
        if value is None:
            continue
        if name in given:
            raise ConfigError(f"option '{name}' is given by --option and by --{name.replace('_', '-')}; give it once")
        given[name] = value
    return given


def load(arguments: argparse.Namespace) -> SupportedEngine:
    """Load the engine that the arguments name, with a progress bar. Raises what ``load_engine`` raises.

    From then on the process keeps the memory of large buffers: all that follows is answers.
    """
    with tqdm(
        desc="loading", total=100, unit="%", bar_format="{desc} {bar} {n:.0f}%", disable=None, leave=False
    ) as bar:
        engine = lisa_ros.load_engine(
            arguments.model,
            arguments.device,
            arguments.precision,
            options(arguments),
            lambda share: bar.update(100 * share - bar.n),
        )
    keep_freed_buffers()
    return engine


def add_workers_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--workers``: a number, or an address of Ray. what: what there are several of at once."""
    parser.add_argument(
        "--workers",
        type=_workers,
        default=1,
        metavar="N",
        help=f"{what} at once (1): a number, for a server with replicas (lisa serve --ray); or ray, for all GPUs (or "
        "CPUs) of this machine; or ray://HOST:PORT of a cluster",
    )


def _workers(text: str) -> int | str:
    """For argparse: a number from 1, ``ray`` or an address."""
    if text == "ray" or text.startswith("ray://"):
        return text
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up, nor ray or ray://HOST:PORT")
    return int(text)


def check_workers(arguments: argparse.Namespace) -> None:
    """Raise ConfigError where ``--workers`` asks an engine of this process for several things at once, or for Ray that
    is not installed."""
    workers = arguments.workers
    if isinstance(workers, str):
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(f"--workers {workers} needs Ray; install it with: pip install 'lisa_ros[cluster]'")
    elif workers > 1 and not is_url(arguments.model):
        raise ConfigError(
            f"--workers {workers} is for a server with replicas; give its URL with --model (lisa serve --ray), or give "
            "--workers ray"
        )


def load_clients(arguments: argparse.Namespace) -> list[SupportedEngine]:
    """The engine, ``--workers`` times. Raises what ``load_engine`` raises."""
    engine = load(arguments)
    more = range(arguments.workers - 1)
    return [engine, *(lisa_ros.load_engine(arguments.model, options=options(arguments)) for _ in more)]


@contextmanager
def ray_tasks(arguments: argparse.Namespace) -> Iterator[Tasks]:
    """Ray, with the engine that the arguments name. Raises ConfigError where the cluster cannot be reached."""
    _send_token()
    from lisa_ros.remote.tasks import EngineSettings, Tasks  # here: Ray need not be installed

    folder = Path(arguments.model)
    model = str(folder.resolve()) if arguments.model and folder.is_dir() else arguments.model
    settings = EngineSettings(model, arguments.device, arguments.precision, options(arguments))
    with Tasks(arguments.workers, settings) as tasks:
        print(f"Ray: {tasks.at_once} at once", file=sys.stderr)
        yield tasks


def _send_token() -> None:
    """Have Ray's client send its token, if there is one. A cluster (Ray 2.60) asks for it wherever it finds one, and
    the client does not send it by itself; the setting is read when Ray is imported."""
    token = Path("~/.ray/auth_token").expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ or token.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def warn_of_demo_model(arguments: argparse.Namespace) -> None:
    """If no model is named, print on standard error what the demo model can do."""
    if not arguments.model:
        print(
            "lisa: the bundled demo model knows only rendered tables; for photographs run "
            "'lisa fetch xinlai/LISA-7B-v1' (15 GB), then add --model LISA-7B-v1",
            file=sys.stderr,
        )


def warn_of_ignored_command(engine: SupportedEngine, asks: Sequence[Ask]) -> None:
    """If there are targets and a command, print on standard error that the command may be ignored."""
    if any(ask.text and ask.targets for ask in asks):
        how = "may ignore" if TARGETS in engine.info.capabilities else "ignores"
        print(
            f"lisa: {escaped(engine.info.name)} {how} the command beside --target; leave out one of the two",
            file=sys.stderr,
        )
