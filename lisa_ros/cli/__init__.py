"""The ``lisa`` command: imports the module of the verb and runs it. Starts without torch."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn

from lisa_ros import __version__
from lisa_ros.errors import LisaError
from lisa_ros.plain_text import EscapingFormatter, escaped
from lisa_ros.process_tuning import limit_spinning

COMMANDS = {
    "segment": ("lisa_ros.cli.segment", "segment the object that a command describes in a picture"),
    "bag": ("lisa_ros.cli.bag", "annotate a recording (rosbag2) with masks and answers"),
    "fetch": ("lisa_ros.cli.fetch", "download a model, pin its revision, convert pickles to safetensors"),
    "inspect": (
        "lisa_ros.cli.inspect",
        "show what a checkpoint contains, whether it is complete and how much memory it needs",
    ),
    "scenes": ("lisa_small.scenes.cli", "render pictures of tables with exact masks and commands"),
    "train": ("lisa_ros.cli.train", "fine-tune a model"),
    "merge": ("lisa_ros.cli.merge", "merge LoRA weights into their model"),
    "serve": ("lisa_ros.cli.serve", "answer the commands of robots without a model, over HTTP"),
    "check": ("lisa_ros.cli.check", "test in a minute whether a model is usable on this machine"),
    "evaluate": ("lisa_ros.cli.evaluate", "measure gIoU and cIoU on a data set"),
    "calibrate": ("lisa_ros.cli.calibrate", "make scores the probability of the right object"),
}
"""Name -> module with add_arguments(parser) and main(arguments) -> exit code, and a summary."""

ERROR = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. An error is one line on standard error; what nobody foresaw has its traceback above the line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit code: that of the command, 1 for an error, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if logging.lastResort is not None:  # shows the warnings of verbs that set up no logging
        logging.lastResort.setFormatter(EscapingFormatter())
    limit_spinning()  # before a command's module imports torch
    try:
        arguments = _parse(words)
        code: int = arguments.main(arguments)
        sys.stdout.flush()  # here, where a closed pipe is no error, and not when Python ends
        return code
    except LisaError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("lisa_ros"):
            raise
        return _fail(
            f"the Python module '{error.name}' is missing; pip install '.[bag,scenes,serve,train,quant]' in the folder "
            "of lisa_ros's source installs all packages that it uses"
        )
    except BrokenPipeError:
        # The reader has closed the pipe, as in `lisa inspect ... | head -1`. What is left in the buffer goes nowhere:
        # Python would try to write it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except OSError as error:
        return _fail(str(error))
    except MemoryError:
        return _fail("out of memory; a smaller model, precision or picture needs less")
    except Exception as error:  # a fault in this package, or in an engine, whose author needs to see where
        traceback.print_exc()
        return _fail(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Escapes what it repeats of the command line."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command. No other command's module is imported."""
    if words and words[0] in COMMANDS and _exists(COMMANDS[words[0]][0]):
        module, summary = COMMANDS[words[0]]
        implementation = import_module(module)
        command = _Parser(f"lisa {words[0]}", description=f"{summary[0].upper()}{summary[1:]}.")
        implementation.add_arguments(command)
        command.set_defaults(main=implementation.main)
        # Intermixed: options may stand between a picture and its commands.
        return command.parse_intermixed_args(words[1:])
    return _overview().parse_args(words)


def _overview() -> argparse.ArgumentParser:
    """Lists the commands that are installed."""
    parser = _Parser(prog="lisa", description="Say what you mean, get a mask.")
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
    print(f"lisa: {escaped(' '.join(message.split()))}", file=sys.stderr)
    return ERROR
