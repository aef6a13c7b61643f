"""Peak memory of loading a checkpoint against what ends up loaded.

    python benchmarks/loading_memory.py                       # LISA-7B's shape: 15.4 GB on disk, deleted afterwards
    python benchmarks/loading_memory.py --size small --precision fp32 int8

Writes a checkpoint of random numbers (bf16, PyTorch files in shards of 10 GB, as released) and loads it in a fresh
process for each precision, on the CPU. Reported for each: bytes of all tensors of the loaded model; the process's peak
resident memory (VmHWM: Python, libraries and mapped file pages included) and its peak of anonymous memory (sampled);
both divided by the loaded bytes. The loading process is stopped when the machine has less than --keep-free-gb left,
and is the first one that the kernel would end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from random_checkpoint import DTYPES, FORMATS, SIZES, blank_lisa, shapes_of, write_checkpoint
from torch import Tensor, nn

from lisa_ros.engine.api import Ask
from lisa_ros.lisa.model.quantize import PRECISIONS, Precision
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.process_tuning import keep_freed_buffers

GB = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["bf16", "nf4"])
    parser.add_argument("--format", choices=FORMATS, default="bin")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16", help="of the file (default %(default)s)")
    parser.add_argument("--shard-gb", type=float, default=10.0, help="largest file, GB (default %(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--keep-free-gb", type=float, default=1.5, help="stop below this (default %(default)s)")
    parser.add_argument("--answer", action="store_true", help="also report what is resident after an answer")
    parser.add_argument("--load", metavar="PATH", help="only load PATH, in this process, and print one JSON line")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load, args.precision[0], args.answer)))
        return

    needed = checkpoint_bytes(args.size, DTYPES[args.dtype])
    with tempfile.TemporaryDirectory(prefix="lisa-random-", dir=args.folder) as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.2 * needed:
            sys.exit(
                f"{folder}: {free / GB:.1f} GB free, {needed / GB:.1f} needed and a fifth more; choose another --folder"
            )
        begun = time.perf_counter()
        size, dtype, shard_bytes = SIZES[args.size], DTYPES[args.dtype], int(args.shard_gb * GB)
        written = write_checkpoint(Path(folder), size, format=args.format, dtype=dtype, shard_bytes=shard_bytes)
        print(f"wrote {written / GB:.2f} GB in {time.perf_counter() - begun:.0f} s", flush=True)
        rows = [
            load_in_a_fresh_process(folder, precision, args.keep_free_gb * GB, args.answer)
            for precision in args.precision
        ]

    print(f"\n{'precision':10}{'loaded GB':>10}{'peak GB':>10}{'ratio':>8}{'anonymous':>11}{'ratio':>8}{'seconds':>9}")
    for row in rows:
        loaded = row["loaded"]
        print(
            f"{row['precision']:10}{loaded / GB:10.2f}{row['peak'] / GB:10.2f}{row['peak'] / loaded:8.3f}"
            f"{row['peak_anonymous'] / GB:11.2f}{row['peak_anonymous'] / loaded:8.3f}{row['seconds']:9.0f}"
        )
    about = {"size": args.size, "format": args.format, "dtype": args.dtype, "written": written}
    about |= {"machine": machine(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "loading_memory", **about, "rows": rows}))


def checkpoint_bytes(size: str, dtype: torch.dtype) -> int:
    """Bytes of the tensors of a checkpoint of this size."""
    lisa, _, _ = blank_lisa(SIZES[size])
    return sum(torch.Size(shape).numel() for shape in shapes_of(lisa).values()) * dtype.itemsize


def load_in_a_fresh_process(folder: str, precision: str, keep_free: float, answer: bool) -> dict[str, float | str]:
    """What :func:`load` reports from a process of its own, stopped when the machine runs short of memory."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path[1:])}
    command = [sys.executable, __file__, "--load", folder, "--precision", precision, *["--answer"] * answer]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")
    while child.poll() is None:
        if read_kilobytes("/proc/meminfo", "MemAvailable") < keep_free:
            child.kill()
            child.wait()
            sys.exit(f"stopped: less than {keep_free / GB:.1f} GB of memory left while loading as {precision}")
        time.sleep(0.02)
    assert child.stdout is not None
    output = child.stdout.read()
    if child.returncode:
        sys.exit(f"loading as {precision} failed with exit status {child.returncode}")
    return json.loads(output.splitlines()[-1])


def load(folder: str, precision: str, answer: bool = False) -> dict[str, float | str]:
    """Load a checkpoint in this process; bytes and seconds. ``before``: resident before loading began."""
    torch.set_num_threads(1)
    Precision.pick(precision, torch.device("cpu"))  # imports bitsandbytes: a library's code is not what loading costs
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again at what is resident now
    before = read_kilobytes("/proc/self/status", "VmRSS")
    before_anonymous = read_kilobytes("/proc/self/status", "RssAnon")
    begun = time.perf_counter()
    with anonymous_peak() as peak:
        segmenter = Segmenter.from_checkpoint(folder, device="cpu", precision=precision)
    report = {
        "precision": precision,
        "loaded": sum(bytes_by_dtype(segmenter.lisa).values()),
        "peak": read_kilobytes("/proc/self/status", "VmHWM"),
        "peak_anonymous": peak[0],
        "before": before,
        "before_anonymous": before_anonymous,
        "seconds": time.perf_counter() - begun,
        "by_dtype": bytes_by_dtype(segmenter.lisa),
    }
    if answer:
        keep_freed_buffers()  # as the worker does
        segmenter.ask(segmenter.encode(np.zeros((480, 640, 3), np.uint8)), Ask("the thing to drink from"))
        report["after_answer"] = read_kilobytes("/proc/self/status", "VmRSS")
    return report


@contextmanager
def anonymous_peak() -> Iterator[list[int]]:
    """The largest RssAnon seen inside, sampled every 2 ms by a thread: memory that no file could give back."""
    peak, done = [0], threading.Event()

    def sample() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], read_kilobytes("/proc/self/status", "RssAnon"))
            done.wait(0.002)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    yield peak
    done.set()
    sampler.join()


def bytes_by_dtype(module: nn.Module) -> dict[str, int]:
    """Bytes of a model's tensors, each storage once, with what bitsandbytes keeps beside its weights."""
    storages: dict[int, tuple[str, int]] = {}
    for owner in [*module.parameters(), *module.buffers()]:
        for tensor in [owner, *_quantisation(owner)]:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = (str(tensor.dtype).removeprefix("torch."), storage.nbytes())
    totals: dict[str, int] = {}
    for dtype, nbytes in storages.values():
        totals[dtype] = totals.get(dtype, 0) + nbytes
    return totals


def _quantisation(weight: Tensor) -> list[Tensor]:
    kept = [getattr(weight, "CB", None), getattr(weight, "SCB", None)]
    state = getattr(weight, "quant_state", None)
    while state is not None:
        kept += [state.absmax, state.code]
        state = getattr(state, "state2", None)
    return [tensor for tensor in kept if isinstance(tensor, Tensor)]


def read_kilobytes(file: str, field: str) -> int:
    """Bytes that a line ``field: N kB`` of a file under /proc says."""
    with open(file) as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def machine() -> str:
    """CPU, its count and the memory."""
    model = platform.processor() or platform.machine()
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} CPUs, {read_kilobytes('/proc/meminfo', 'MemTotal') / 2**30:.0f} GiB"


if __name__ == "__main__":
    main()
