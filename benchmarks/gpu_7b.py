"""LISA-7B on a GPU: prefill, decoding against the bandwidth limit, first mask, second command, peak memory.

    python benchmarks/gpu_7b.py                                        # needs about 18 GB of GPU memory for bf16
    python benchmarks/gpu_7b.py --precision nf4                        # about 7 GB
    python benchmarks/gpu_7b.py --size tiny --device cpu --rounds 2    # the same code, without a GPU

Makes a model of LISA-7B's shape from random numbers on the device itself (no file), which answers "Sure, [SEG]." or a
60-token explanation (see random_checkpoint.py). Decoding a token reads the decoder layers and lm_head once, so the
limit is their bytes over the device's bandwidth; the bandwidth is that of a copy, measured here. Medians over the
rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from loading_memory import bytes_by_dtype, machine, read_kilobytes
from model_speed import FIRST, SECOND, explanation
from random_checkpoint import SHORT_ANSWER, SIZES, Numbers, Size, answering, blank_lisa, shapes_of, write_tokenizer
from torch import nn

from lisa_ros.engine.api import Ask, Event, Regions, Turn
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.model.lisa import image_columns
from lisa_ros.lisa.model.quantize import PRECISIONS, Precision, pick_device, restore_constants
from lisa_ros.lisa.prompt import build_prompt
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.tokenizer import Tokenizer

GB = 1e9
ROWS = {
    "loaded_gb": "model, GB",
    "peak_gb": "peak memory, GB",
    "prefill_ms": "prefill, ms",
    "prefill_tokens_per_s": "prefill, tokens/s",
    "decode_tokens_per_s": "decoding, tokens/s",
    "decode_limit_tokens_per_s": "limit by bandwidth, tokens/s",
    "decode_share_of_limit": "share of the limit",
    "first_mask_ms": "first mask on a new frame, ms",
    "first_command_ms": "first command on a frame, ms",
    "second_command_ms": "second command on the frame, ms",
    "explanation_ms": "60-token explanation, new frame, ms",
    "image_encoder_ms": "of these SAM's encoder, ms",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["bf16", "int8", "nf4"])
    parser.add_argument("--rounds", type=int, default=10, help="default %(default)s")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    args = parser.parse_args()
    device = pick_device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    bandwidth = copy_bandwidth(device)
    rgb = np.random.default_rng(0).integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    rows: dict[str, dict[str, float | str]] = {}
    for precision in args.precision:
        try:
            rows[precision] = measure(SIZES[args.size], precision, device, rgb, bandwidth, args.rounds)
        except (torch.OutOfMemoryError, ConfigError) as error:
            rows[precision] = {"error": str(error).splitlines()[0]}
        print(f"{precision} done", flush=True)

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    print(f"\n{name}, size {args.size}, {bandwidth / GB:.0f} GB/s by a copy\n")
    print(f"{'':38}" + "".join(f"{precision:>12}" for precision in rows))
    for key, label in ROWS.items():
        print(f"{label:38}" + "".join(_cell(row.get(key)) for row in rows.values()))
    for precision, row in rows.items():
        if "error" in row:
            print(f"{precision}: {row['error']}")
    about = {
        "device": name,
        "size": args.size,
        "image": [args.height, args.width],
        "bandwidth_gb_per_s": bandwidth / GB,
    }
    print(json.dumps({"benchmark": "gpu_7b", **about, "torch": torch.__version__, "rows": rows}))


def _cell(value: float | str | None) -> str:
    return f"{value:12.3g}" if isinstance(value, float) and value < 100 else f"{value:12.0f}" if value else f"{'-':>12}"


def make_segmenter(size: Size, precision: str, device: torch.device) -> Segmenter:
    """LISA of this size with random numbers, made tensor by tensor and moved to the device as a checkpoint's are."""
    how = Precision.pick(precision, device)
    lisa, spec, clip = blank_lisa(size)
    shapes = shapes_of(lisa)
    # On the CPU first: bitsandbytes quantises int8 on the way to the device, and only from there.
    numbers = Numbers(size, how.dtype)
    how.prepare(lisa.llama)
    for name, shape in shapes.items():
        how.assign(lisa, name, numbers.of(name, shape), device)
    restore_constants(lisa, device)
    lisa.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), size.vocabulary)
        tokenizer = Tokenizer.from_folder(Path(folder))
    return Segmenter(lisa, spec, tokenizer, clip, spec.conversation, how.name)


def measure(
    size: Size, precision: str, device: torch.device, rgb: np.ndarray, bandwidth: float, rounds: int
) -> dict[str, float | str]:
    """All figures of one precision; keys as in ROWS."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with torch.inference_mode():
        segmenter = make_segmenter(size, precision, device)
    lisa, tokenizer = segmenter.lisa, segmenter.tokenizer
    short = [*tokenizer.encode(SHORT_ANSWER), tokenizer.eos_id]
    row: dict[str, float | str] = {"loaded_gb": _nbytes(lisa) / GB}
    row |= language_model_speed(segmenter, rgb, bandwidth, rounds)
    times: dict[str, list[float]] = {"first_mask": [], "first_command": [], "second_command": [], "explanation": []}
    times["image_encoder"] = []
    for _ in range(rounds + 1):
        with answering(lisa, tokenizer, short):
            begun = now(device)
            encoded = segmenter.encode(rgb)
            mask_at: list[float] = []

            def note(event: Event, mask_at: list[float] = mask_at) -> None:
                if isinstance(event, Regions):
                    mask_at.append(now(device))

            answer = segmenter.ask(encoded, Ask(FIRST), note, details=True)
            times["first_command"].append(now(device) - begun)
            if answer.details["answer_ids"] != short:
                raise SystemExit(f"as {precision} the model says {answer.text!r} instead of {SHORT_ANSWER!r}")
            times["first_mask"].append(mask_at[0] - begun)
            times["image_encoder"].append(answer.timings.encode_s)
            times["second_command"].append(seconds(device, lambda encoded=encoded: segmenter.ask(encoded, Ask(SECOND))))
        with answering(lisa, tokenizer, explanation(tokenizer)):
            whole = seconds(device, lambda: segmenter.ask(segmenter.encode(rgb), Ask(FIRST)))
            times["explanation"].append(whole)
    row |= {f"{name}_ms": 1e3 * statistics.median(values[1:]) for name, values in times.items()}  # the first warms up
    row["peak_gb"] = _peak(device) / GB
    return row


@torch.inference_mode()
def language_model_speed(segmenter: Segmenter, rgb: np.ndarray, bandwidth: float, rounds: int) -> dict[str, float]:
    """Prefill of a whole prompt and decoding one token after another, the language model alone."""
    lisa, device = segmenter.lisa, segmenter.device
    prompt = build_prompt([Turn(FIRST)], segmenter.template, im_start_end=segmenter.spec.image_start_end)
    ids = segmenter.tokenizer.encode_prompt(prompt.text, prompt.literal)

    image_tokens = segmenter.encode(rgb).features.tokens
    row = torch.tensor([ids], device=device)
    embedded = lisa.embed(row.gather(1, image_columns(row, image_tokens.shape[1])), image_tokens)  # (1, L, H)
    prefills, decodes, steps = [], [], 32
    for _ in range(rounds + 1):
        cache = lisa.new_cache()
        prefills.append(seconds(device, lambda cache=cache: lisa.lm_head(lisa.read(embedded, cache)[:, -1])))

        def decode(cache: object = cache) -> None:
            token = torch.tensor([[segmenter.tokenizer.eos_id]], device=device)
            for _ in range(steps):
                token = lisa.lm_head(lisa.read(lisa.llama.embed_tokens(token), cache)).argmax(-1)
                token.item()  # a segmenter looks at every token before it asks for the next

        decodes.append(seconds(device, decode) / steps)
    prefill, decode_s = statistics.median(prefills[1:]), statistics.median(decodes[1:])
    limit = bandwidth / (_nbytes(lisa.llama.layers) + _nbytes(lisa.llama.norm) + _nbytes(lisa.lm_head))
    return {
        "prefill_ms": 1e3 * prefill,
        "prefill_tokens_per_s": embedded.shape[1] / prefill,
        "decode_tokens_per_s": 1 / decode_s,
        "decode_limit_tokens_per_s": limit,
        "decode_share_of_limit": 1 / decode_s / limit,
    }


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a copy on the device, the best of some."""
    count = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * count / min(seconds(device, lambda: target.copy_(source)) for _ in range(10))


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    """Seconds that ``run`` takes, until the device has finished."""
    begun = now(device)
    run()
    return now(device) - begun


def now(device: torch.device) -> float:
    """The time, after all work given to the device so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _nbytes(module: nn.Module) -> int:
    return sum(bytes_by_dtype(module).values())


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return read_kilobytes("/proc/self/status", "VmHWM")


if __name__ == "__main__":
    main()
