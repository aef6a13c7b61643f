"""``lisa merge``: merge LoRA weights into their model."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_ros.errors import ConfigError
from lisa_ros.plain_text import escaped
from lisa_ros.training.merge import DTYPES, merge_checkpoint, merge_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Merge the LoRA weights of a run of `lisa train`, or of a checkpoint that has them apart (as the reference and "
        "peft write it), into the model."
    )
    parser.add_argument("source", type=Path, help="folder of a run, or of a checkpoint with LoRA weights in it")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument(
        "--weights", choices=("best", "last"), help="of a run (default: best where it was validated, else last)"
    )
    parser.add_argument("--start", type=Path, help="folder of the model that the run started from, where it was moved")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="store all weights in this format (default: unchanged)")
    parser.add_argument("--lora-alpha", type=float, default=16.0, help="of a checkpoint, which does not record it")


def main(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise ConfigError(f"{args.out} exists; choose another folder, or remove it")
    dtype = DTYPES[args.dtype] if args.dtype else None
    if (args.source / "state").is_dir() or (args.source / "best").is_dir():
        merge_run(args.source, args.out, weights=args.weights, start=args.start, dtype=dtype)
    else:
        merge_checkpoint(args.source, args.out, alpha=args.lora_alpha, dtype=dtype)
    print(f"wrote {escaped(args.out)}")
    return 0
