"""``lisa merge``: merge LoRA weights into their model."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.lisa.weights.spec import read_spec, resolve_tower
from lisa_ros.plain_text import escaped
from lisa_ros.training.merge import DTYPES, merge_checkpoint, merge_file, merge_run
from lisa_ros.training.merge_llm_seg import merge_llm_seg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Merge LoRA weights into their model. The source is a run of `lisa train`, a checkpoint with separate LoRA "
        "weights, as the reference implementation and peft write it, or a file with a whole model and its LoRA, as "
        "GSVA's and LLM-Seg's authors released it."
    )
    parser.add_argument(
        "source",
        type=Path,
        help="folder of a run or of a checkpoint with LoRA weights, GSVA's .bin, or LLM-Seg's .pt",
    )
    parser.add_argument("--base", type=Path, help="folder of the LLaVA that a .bin or .pt was trained from")
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
    if not args.source.exists():
        raise ConfigError(f"{args.source} does not exist; name a run, a checkpoint's folder, or a .bin or .pt file")
    if not (math.isfinite(args.lora_alpha) and args.lora_alpha >= 0):
        raise ConfigError(f"lora-alpha is {args.lora_alpha:g}; it must be a number from 0 up")
    dtype = DTYPES[args.dtype] if args.dtype else None
    if args.source.is_file():
        if args.base is None:
            raise ConfigError(
                f"{args.source} has no config.json and no tokenizer of its own; name the folder of the LLaVA that it "
                "was trained from with --base"
            )
        if not args.base.is_dir():
            raise ConfigError(f"--base {args.base} is no folder; name that of the LLaVA that {args.source} belongs to")
        merge = merge_llm_seg if args.source.suffix == ".pt" else merge_file
        merge(args.source, args.base, args.out, alpha=args.lora_alpha, dtype=dtype)
    elif args.base is not None:
        raise ConfigError(f"--base is for a .bin or .pt file; {args.source} is a folder and has its own configuration")
    elif (args.source / "state").is_dir() or (args.source / "best").is_dir():
        merge_run(args.source, args.out, weights=args.weights, start=args.start, dtype=dtype)
    else:
        merge_checkpoint(args.source, args.out, alpha=args.lora_alpha, dtype=dtype)
    print(f"wrote {escaped(args.out)}")
    try:
        resolve_tower(None, read_spec(args.out), args.out)
    except CheckpointError as error:
        print(f"lisa: the model is whole but for its CLIP tower: {escaped(error)}", file=sys.stderr)
    return 0
