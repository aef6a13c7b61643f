"""The ``lisa`` command: imports the module of the verb and runs it. Starts without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from lisa_ros import __version__
from lisa_ros.errors import LisaError
from lisa_ros.process_tuning import limit_spinning

COMMANDS = {
    "segment": ("lisa_ros.cli.segment", "find what a command means in a picture"),
    "bag": ("lisa_ros.cli.bag", "annotate a recording (rosbag2) with masks and answers"),
    "fetch": ("lisa_ros.cli.fetch", "get a model, pin its revision, convert its pickles to safetensors"),
    "inspect": ("lisa_ros.cli.inspect", "say what a checkpoint is, whether it is complete and what memory it takes"),
    "scenes": ("lisa_small.scenes.cli", "render pictures of tables with exact masks and commands"),
    "train": ("lisa_ros.cli.train", "fine-tune a model"),
    "merge": ("lisa_ros.cli.merge", "merge LoRA weights into their model"),
    "evaluate": ("lisa_ros.cli.evaluate", "measure gIoU and cIoU on a data set"),
}
"""Name -> module with add_arguments(parser) and main(arguments) -> exit code, and a summary."""

ERROR = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; an error is one line on standard error and exit code 1."""
    given = sys.argv[1:] if argv is None else list(argv)
    limit_spinning()  # before a command's module imports torch
    try:
        arguments = _parse(given)
        return arguments.main(arguments)
    except LisaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lisa_ros"):
            raise
        return _fail(
            f"the Python module '{error.name}' is missing; pip install 'lisa_ros[bag,scenes,train,quant]' brings all "
            "that lisa_ros uses"
        )
    except BrokenPipeError:
        # The reader has closed the pipe, as in `lisa inspect ... | head -1`.
        sys.stderr.close()
        return ERROR
    except OSError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


def _parse(given: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command. No other command's module is imported."""
    if given and given[0] in COMMANDS and _exists(COMMANDS[given[0]][0]):
        module, summary = COMMANDS[given[0]]
        implementation = import_module(module)
        command = argparse.ArgumentParser(f"lisa {given[0]}", description=f"{summary[0].upper()}{summary[1:]}.")
        implementation.add_arguments(command)
        command.set_defaults(main=implementation.main)
        # Intermixed: options may stand between a picture and its commands.
        return command.parse_intermixed_args(given[1:])
    return _overview().parse_args(given)


def _overview() -> argparse.ArgumentParser:
    """Lists the commands that are installed."""
    parser = argparse.ArgumentParser(prog="lisa", description="Say what you mean, get a mask.")
    parser.add_argument("--version", action="version", version=f"lisa_ros {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        if _exists(module):
            commands.add_parser(name, help=summary)
    return parser


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _fail(message: str) -> int:
    print(f"lisa: {' '.join(message.split())}", file=sys.stderr)
    return ERROR
