"""What a command costs, on one thread of a CPU, against the reference's own way of working.

    python benchmarks/model_speed.py                   # mid size, about 15 minutes
    python benchmarks/model_speed.py --size tiny --rounds 2
    python benchmarks/model_speed.py --concurrency     # SAM's encoder after the language model, or beside it

A checkpoint of random numbers, made to answer "Sure, [SEG]." or a 60-token explanation (see random_checkpoint.py),
loaded in fp32. The reference's way is written here from LISA's own parts: CLIP and the whole prompt again for every
token, no keys and values kept, all positions through lm_head and seg_projector, SAM's image encoder every time, with
attention that stores the whole score matrix. Both ways must give the same tokens and the same mask logits within 1e-4,
and another command other logits by ten times as much, or the script stops. Every way runs in a process of its own,
in turn in every round; lisa_ros's processes keep freed buffers, as its worker does (process_tuning). Medians of the CPU
time, user and system (on one thread that is the time on an idle machine, and other work on a shared one disturbs it
less), the system's part apart, and ratios of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from loading_memory import machine
from numpy.typing import NDArray
from random_checkpoint import CLIP_FOLDER, SHORT_ANSWER, SIZES, answering, write_checkpoint
from torch import Tensor
from transformers import CLIPVisionModel
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionEncoder

from lisa_ros.engine.api import Ask, Turn
from lisa_ros.lisa.grounding import Features
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.model.lisa import image_columns, predicting
from lisa_ros.lisa.model.mask_decoder import upsample_logits
from lisa_ros.lisa.preprocess import for_sam
from lisa_ros.lisa.prompt import QuestionForms, build_prompt, phrase_command, template
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.process_tuning import keep_freed_buffers

FIRST, SECOND = "the thing to drink from", "the red cup"
EXPLANATION_TOKENS = 60
TOLERANCE = 1e-4  # of mask logits, whose standard deviation is 0.8

CHECK = "check"
CASES = {
    # Name -> the way, whether SAM's encoder runs, whether a draft is used.
    "short, SAM, reference's way": ("reference", True, False),
    "short, SAM": ("ours", True, True),
    "short, reference's way": ("reference", False, False),
    "short": ("ours", False, True),
    "short, no draft": ("ours", False, False),
    "short, no cache": ("no cache", False, True),
    "short, no draft, no cache": ("no cache", False, False),
    "second command on the frame": ("second", False, True),
    "second, no draft": ("second", False, False),
    "explanation, reference's way": ("reference", False, False),
    "explanation": ("ours", False, True),
    "explanation, no draft": ("ours", False, False),
    "explanation, no cache": ("no cache", False, True),
}


class WithoutCache(Segmenter):
    """Reads everything again for every pass: the key-value cache switched off."""

    def _read(self, ids: Sequence[int], frame: Features | None, cache: PrefixCache) -> Tensor:
        whole = [*cache.tokens, *ids]
        cache.truncate(0)
        return super()._read(whole, frame, cache)[-len(ids) :]


class Reference:
    """The reference's evaluate(), step by step, on the same weights."""

    def __init__(self, segmenter: Segmenter, clip: CLIPVisionModel, rgb: NDArray[np.uint8], embedding: Tensor):
        self.segmenter, self.lisa, self.rgb, self.embedding = segmenter, segmenter.lisa, rgb, embedding
        self.clip = clip  # all its layers, of which lisa's tower builds only those that are read

    @torch.inference_mode()
    def answer(self, command: str, *, sam: bool = True) -> tuple[list[int], Tensor]:
        """Ids with ``</s>`` and mask logits (S, H, W). sam: run SAM's encoder, else take the embedding at hand."""
        lisa, tokenizer = self.lisa, self.segmenter.tokenizer
        question = phrase_command(command, QuestionForms())
        prompt = build_prompt([Turn(question)], template("llava_v1"), im_start_end=True)
        ids = tokenizer.encode_prompt(prompt.text, prompt.literal)
        clip_pixels = self.segmenter._clip_pixels(self.rgb)
        answer: list[int] = []
        while not answer or answer[-1] != tokenizer.eos_id:
            features = self.clip(clip_pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
            row = torch.tensor([ids + answer])
            row = row.gather(1, image_columns(row, features.shape[1]))  # (1, L)
            embedded = lisa.embed(row, lisa.image_projector(features))
            hidden = lisa.read(embedded)  # (1, L, H)
            answer.append(int(lisa.lm_head(hidden)[0, -1].argmax()))
        embeddings = lisa.seg_projector(hidden)[0]  # (L, C)
        image = self._encode() if sam else self.embedding
        all_ids = torch.tensor([ids + answer])
        all_ids = all_ids.gather(1, image_columns(all_ids, lisa.vision_tower.num_tokens))
        where = predicting(all_ids, tokenizer.id_of("[SEG]"))[0, :-1]
        masks = lisa.sam.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=lisa.sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=embeddings[None, where, None],
            dense_prompt_embeddings=lisa.sam.prompt_encoder.no_mask_embed.weight[:, :, None, None].expand_as(image),
            multimask_output=False,
        )[0][0]
        return answer, upsample_logits(masks.float(), self.rgb.shape[:2], lisa.input_size)

    def _encode(self) -> Tensor:
        with plain_attention(self.lisa.sam.vision_encoder):
            return self.lisa.embed_image(torch.from_numpy(for_sam(self.rgb, self.lisa.input_size))[None])


@contextmanager
def plain_attention(encoder: SamVisionEncoder) -> Iterator[None]:
    """Inside, SAM's encoder multiplies, adds the relative positions and takes the softmax step by step: no SDPA."""
    kinds = [type(layer.attn) for layer in encoder.layers]
    for layer in encoder.layers:
        layer.attn.__class__ = SamVisionAttention
    yield
    for layer, kind in zip(encoder.layers, kinds, strict=True):
        layer.attn.__class__ = kind


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument(
        "--concurrency", action="store_true", help="only compare SAM's encoder after or beside the rest"
    )
    parser.add_argument("--load", type=Path, metavar="PATH", help="only measure --case with this checkpoint, here")
    parser.add_argument("--case", choices=[CHECK, *CASES], default=CHECK, help="with --load (default %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="ways to measure (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rgb = np.random.default_rng(0).integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    if args.load:
        print(json.dumps(Ways(args.load, rgb).measure(args.case)))
        return
    with tempfile.TemporaryDirectory(prefix="lisa-random-") as folder:
        write_checkpoint(Path(folder), SIZES[args.size])
        if args.concurrency:
            segmenter = Segmenter.from_checkpoint(folder, device="cpu", precision="fp32")
            results = compare_concurrency(segmenter, rgb, args.rounds)
        else:
            results = compare(folder, args)
    about = {"size": args.size, "image": [args.height, args.width], "rounds": args.rounds}
    about |= {"machine": machine(), "load_average": os.getloadavg()[0], "torch": torch.__version__}
    print(json.dumps({"benchmark": "model_speed", **about, **results}))


def explanation(tokenizer: Tokenizer) -> list[int]:
    """Ids of an answer of EXPLANATION_TOKENS tokens that begins with the short one and says no token twice."""
    begin = tokenizer.encode(SHORT_ANSWER)
    taken = {*begin, *tokenizer.encode_prompt(template("llava_v1").question_end)}
    rest = [token for token in range(300, len(tokenizer) - 3) if token not in taken]
    return [*begin, *rest[: EXPLANATION_TOKENS - len(begin) - 1], tokenizer.eos_id]


class Ways:
    """Every way of answering, on one checkpoint in this process."""

    def __init__(self, folder: Path, rgb: NDArray[np.uint8]) -> None:
        self.rgb = rgb
        self.segmenter = Segmenter.from_checkpoint(folder, device="cpu", precision="fp32")
        segmenter, self.clip = self.segmenter, CLIPVisionModel.from_pretrained(folder / CLIP_FOLDER).eval()
        lisa, tokenizer, spec = segmenter.lisa, segmenter.tokenizer, segmenter.spec
        self.without_cache = WithoutCache(lisa, spec, tokenizer, segmenter._clip, spec.conversation, "fp32")
        side = 4 * lisa.input_size // 64
        # Where SAM's encoder is left out, noise stands for what it makes: the decoder does the same work.
        noise = torch.randn(1, 256, side, side, generator=torch.Generator().manual_seed(0))
        self.embedding = noise
        self.reference = Reference(segmenter, self.clip, rgb, noise)

    def saying(self, case: str) -> AbstractContextManager[None]:
        """Inside, the model gives the answer of this case."""
        tokenizer = self.segmenter.tokenizer
        short = [*tokenizer.encode(SHORT_ANSWER), tokenizer.eos_id]
        return answering(self.segmenter.lisa, tokenizer, explanation(tokenizer) if "explanation" in case else short)

    def measure(self, case: str) -> dict[str, float]:
        """Seconds of user and system, and page faults, of one answer; {} for the check, which stops if it fails."""
        if case == CHECK:
            with self.saying(case):
                return check_equal(self.reference, self.segmenter, self.rgb)
        run = self.runner(case)
        with self.saying(case):
            before = resource.getrusage(resource.RUSAGE_SELF)
            run()
            after = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "user": after.ru_utime - before.ru_utime,
            "system": after.ru_stime - before.ru_stime,
            "page_faults": after.ru_minflt - before.ru_minflt,
        }

    def runner(self, case: str) -> Callable[[], object]:
        """What a case does, ready to be timed."""
        way, sam, draft = CASES[case]
        if way == "reference":
            return partial(self.reference.answer, FIRST, sam=sam)
        keep_freed_buffers()
        if way == "second":
            seen = self.first(self.segmenter, sam=False, draft=True)
            return partial(self.segmenter.ask, seen, Ask(SECOND), draft=draft)
        return partial(self.first, self.without_cache if way == "no cache" else self.segmenter, sam=sam, draft=draft)

    def first(self, segmenter: Segmenter, *, sam: bool, draft: bool) -> EncodedImage:
        """Encode the frame and answer the first command. sam: with SAM's encoder."""
        encoded = segmenter.encode(self.rgb)
        encoded.features.embedding = None if sam else self.embedding
        segmenter.ask(encoded, Ask(FIRST), draft=draft)
        return encoded


def compare(folder: str, args: argparse.Namespace) -> dict[str, object]:
    """Every way of answering in a process of its own, in turn; prints the table and returns the figures."""
    print(f"both ways are equal: {measure_apart(folder, CHECK, args)}", flush=True)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    for number in range(args.rounds):
        for name in rows:
            rows[name].append(measure_apart(folder, name, args))
        print(f"round {number + 1} of {args.rounds} done", flush=True)
    return report(rows)


def measure_apart(folder: str, case: str, args: argparse.Namespace) -> dict[str, float]:
    """What :meth:`Ways.measure` gives in a fresh process. Ends this one where it fails."""
    command = [sys.executable, __file__, "--load", folder, "--case", case]
    command += ["--height", str(args.height), "--width", str(args.width)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"measuring '{case}' failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def report(rows: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    """Print times and ratios; the same as a dictionary."""
    seconds = {name: [row["user"] + row["system"] for row in measured] for name, measured in rows.items()}
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"\n{'':34}{'median, s':>10}{'min':>9}{'max':>9}{'system':>9}{'faults':>10}{'against the reference':>23}")
    for name, times in seconds.items():
        kind = "explanation" if name.startswith("explanation") else "short, SAM" if "SAM" in name else "short"
        system = statistics.median(row["system"] for row in rows[name])
        faults = statistics.median(row["page_faults"] for row in rows[name])
        row = f"{name:34}{median[name]:10.3f}{min(times):9.3f}{max(times):9.3f}{system:9.3f}{faults:10.0f}"
        reference = median.get(f"{kind}, reference's way")
        print(row + (f"{reference / median[name]:22.1f}x" if reference is not None else ""))
    pairs = {
        "short answer, SAM included": ("short, SAM, reference's way", "short, SAM", 1.8),
        "short answer, but SAM's encoder": ("short, reference's way", "short", 6),
        "explanation, but SAM's encoder": ("explanation, reference's way", "explanation", 15),
        "second command, SAM included": ("short, SAM, reference's way", "second command on the frame", 50),
    }
    print()
    ratios = {}
    for name, (slow, fast, goal) in pairs.items():
        if slow in median and fast in median:
            ratios[name] = median[slow] / median[fast]
            print(f"{name:34}{ratios[name]:9.1f}x   goal at mid size {goal:g}x")
    return {"measured": rows, "ratios": ratios}


def check_equal(reference: Reference, segmenter: Segmenter, rgb: NDArray[np.uint8]) -> dict[str, float]:
    """Stop unless both ways give the same ids and mask logits, and another command would have been noticed."""
    ids, logits = reference.answer(FIRST)
    encoded = segmenter.encode(rgb)
    apart = 0.0
    for draft in (True, False):
        result = segmenter.ask(encoded, Ask(FIRST), details=True, draft=draft)
        apart = max(apart, largest_difference(result.details["mask_logits"], logits))
        answer_ids = result.details["answer_ids"]
        if answer_ids != ids or not apart <= TOLERANCE:
            raise SystemExit(f"the two ways differ: {ids} and {answer_ids}, mask logits by {apart}")
    other = segmenter.ask(encoded, Ask(SECOND), details=True)
    wrong_command = largest_difference(other.details["mask_logits"], logits)
    if not wrong_command > 10 * TOLERANCE:
        raise SystemExit(f"another command moves a mask logit by {wrong_command} only: the check could not fail")
    return {"apart": apart, "wrong_command": wrong_command, "std": float(logits.std())}


def largest_difference(ours: NDArray[np.float32], theirs: Tensor) -> float:
    return float(np.abs(ours - theirs.numpy()).max())


def compare_concurrency(segmenter: Segmenter, rgb: NDArray[np.uint8], rounds: int) -> dict[str, object]:
    """A first short answer on two cores, SAM's encoder after the language model or beside it in a second thread."""
    pixels = torch.from_numpy(for_sam(rgb, segmenter.lisa.input_size))[None]
    with torch.inference_mode():
        ready = segmenter.lisa.embed_image(pixels)

    def after(threads: int) -> None:
        torch.set_num_threads(threads)
        segmenter.ask(segmenter.encode(rgb), Ask(FIRST))

    def beside(threads: int) -> None:
        def embed() -> None:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                segmenter.lisa.embed_image(torch.from_numpy(for_sam(rgb, segmenter.lisa.input_size))[None])

        torch.set_num_threads(threads)
        encoder = threading.Thread(target=embed)
        encoder.start()
        encoded: EncodedImage = segmenter.encode(rgb)
        encoded.features.embedding = (
            ready  # the same work: what the thread computes is not waited for in the middle, but at the end
        )
        segmenter.ask(encoded, Ask(FIRST))
        encoder.join()

    ways = {
        "after, 2 threads": lambda: after(2),
        "beside, 1 thread each": lambda: beside(1),
        "beside, 2 threads each": lambda: beside(2),
        "after, 1 thread": lambda: after(1),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    torch.set_num_threads(1)
    print(f"\n{'SAM encoder':26}{'median, s':>10}{'min':>8}{'max':>8}")
    for name, times in seconds.items():
        print(f"{name:26}{statistics.median(times):10.2f}{min(times):8.2f}{max(times):8.2f}")
    return {"concurrency_seconds": seconds}


if __name__ == "__main__":
    main()
