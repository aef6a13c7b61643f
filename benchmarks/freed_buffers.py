"""What it saves that the C library keeps large buffers: SAM's ViT-B encoder at 1024 pixels, one thread, random weights.

    python benchmarks/freed_buffers.py            # about a minute
    python benchmarks/freed_buffers.py --layers 4

Encodes an image in a fresh process as the C library does by itself, and in another one after
process_tuning.keep_freed_buffers. Printed: user and system time, page faults, resident memory before and after, and a
hash of the embedding, which must be the same or the script stops.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys

import torch
from loading_memory import machine, read_kilobytes
from transformers import SamConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from lisa_ros.process_tuning import keep_freed_buffers

GLOBAL_LAYERS = (2, 5, 8, 11)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="of ViT-B's 12 (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="default %(default)s")
    parser.add_argument("--here", choices=("given back", "kept"), help="only encode, in this process")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(encode(args.layers, args.here == "kept")))
        return
    rows = []
    print(f"{'freed buffers':15}{'user, s':>9}{'system, s':>11}{'faults':>10}{'MB before':>11}{'MB after':>10}")
    for _ in range(args.rounds):
        for way in ("given back", "kept"):
            command = [sys.executable, __file__, "--layers", str(args.layers), "--here", way]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append({"freed_buffers": way, **row})
            print(
                f"{way:15}{row['user']:9.2f}{row['system']:11.2f}{row['page_faults']:10}"
                f"{row['before'] / 1e6:11.0f}{row['after'] / 1e6:10.0f}",
                flush=True,
            )
    print(json.dumps({"benchmark": "freed_buffers", "machine": machine(), "load": os.getloadavg()[0], "rows": rows}))
    if len({row["sha1"] for row in rows}) != 1:
        sys.exit("the embeddings differ")


@torch.inference_mode()
def encode(layers: int, keep: bool) -> dict[str, float | str]:
    """Encode one image in this process; what it cost."""
    torch.manual_seed(0)
    config = SamVisionConfig(num_hidden_layers=layers, global_attn_indexes=[i for i in GLOBAL_LAYERS if i < layers])
    encoder = SamVisionEncoder(SamConfig(vision_config=config.to_dict()).vision_config).eval()
    pixels = torch.randn(1, 3, 1024, 1024)
    if keep:
        keep_freed_buffers()
    resident = read_kilobytes("/proc/self/status", "VmRSS")
    before = resource.getrusage(resource.RUSAGE_SELF)
    embedding = encoder(pixels).last_hidden_state
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
        "before": resident,
        "after": read_kilobytes("/proc/self/status", "VmRSS"),
        "sha1": hashlib.sha1(embedding.numpy().tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    main()
