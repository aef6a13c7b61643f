"""``lisa merge``: merge LoRA weights into their model."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_ros.errors import ConfigError
from lisa_ros.plain_text import escaped
from lisa_ros.training.merge import DTYPES, merge_checkpoint, merge_file, merge_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Merge LoRA weights into their model. The source is a run of `lisa train`, a checkpoint with separate LoRA "
        "weights, as the reference implementation and peft write it, or a file with a whole model and its LoRA, as "
        "GSVA's authors released it."
    )
    parser.add_argument(
        "source", type=Path, help="folder of a run or of a checkpoint with LoRA weights, or GSVA's .bin"
    )
    parser.add_argument("--base", type=Path, help="folder of the LLaVA that a .bin was trained from")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        help="which weights of a run (default: best if the run had a validation, else last)",
    )
    parser.add_argument(
        "--start", type=Path, help="folder of the model that the run started from, if it is not at its old place"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="store all weights in this format (default: unchanged)")
    parser.add_argument(
        "--lora-alpha", type=float, default=16.0, help="LoRA alpha of a checkpoint or .bin, which do not store it (16)"
    )


def main(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise ConfigError(f"{args.out} exists; choose another folder, or remove it")
    dtype = DTYPES[args.dtype] if args.dtype else None
    if args.source.is_file():
        if args.base is None:
            raise ConfigError(
                f"{args.source} has no config.json and no tokenizer of its own; name the folder of the LLaVA that it "
                "was trained from with --base"
            )
        merge_file(args.source, args.base, args.out, alpha=args.lora_alpha, dtype=dtype)
    elif args.base is not None:
        raise ConfigError(f"--base is for a .bin file; {args.source} is a folder and has its own configuration")
    elif (args.source / "state").is_dir() or (args.source / "best").is_dir():
        merge_run(args.source, args.out, weights=args.weights, start=args.start, dtype=dtype)
    else:
        merge_checkpoint(args.source, args.out, alpha=args.lora_alpha, dtype=dtype)
    print(f"wrote {escaped(args.out)}")
    return 0
