"""``lisa merge``: merge LoRA weights into their model."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_ros.errors import ConfigError
from lisa_ros.plain_text import escaped
from lisa_ros.training.merge import DTYPES, merge_checkpoint, merge_run
from lisa_ros.training.merge_llm_seg import merge_llm_seg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Merge LoRA weights into their model. The source is a run of `lisa train`, or a checkpoint with separate LoRA "
        "weights, as the reference implementation and peft write it, or LLM-Seg's DeepSpeed file."
    )
    parser.add_argument(
        "source",
        type=Path,
        help="folder of a run, or of a checkpoint with LoRA weights in it; or LLM-Seg's mp_rank_00_model_states.pt",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        help="which weights of a run (default: best if the run had a validation, else last)",
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="folder of the model that the run started from, if it is not at its old place; for LLM-Seg, its LLaVA",
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="store all weights in this format (default: unchanged)")
    parser.add_argument(
        "--lora-alpha", type=float, default=16.0, help="LoRA alpha of a checkpoint, which does not store it (16)"
    )


def main(args: argparse.Namespace) -> int:
    if args.out.exists():
        raise ConfigError(f"{args.out} exists; choose another folder, or remove it")
    dtype = DTYPES[args.dtype] if args.dtype else None
    if args.source.is_file():
        if args.start is None:
            raise ConfigError(f"{args.source} is a file of LLM-Seg's; say with --start which LLaVA it was trained from")
        merge_llm_seg(args.source, args.start, args.out, alpha=args.lora_alpha, dtype=dtype)
    elif (args.source / "state").is_dir() or (args.source / "best").is_dir():
        merge_run(args.source, args.out, weights=args.weights, start=args.start, dtype=dtype)
    else:
        merge_checkpoint(args.source, args.out, alpha=args.lora_alpha, dtype=dtype)
    print(f"wrote {escaped(args.out)}")
    return 0
