"""What a command costs, on one thread of a CPU, against the reference's own way of working.

    python benchmarks/model_speed.py                   # mid size, about 15 minutes
    python benchmarks/model_speed.py --size tiny --rounds 2
    python benchmarks/model_speed.py --concurrency     # SAM's encoder after the language model, or beside it

A checkpoint of random numbers, made to answer "Sure, [SEG]." or a 60-token explanation (see random_checkpoint.py),
loaded in fp32. The reference's way is written here from LISA's own parts: CLIP and the whole prompt again for every
token, no keys and values kept, all positions through lm_head and seg_projector, SAM's image encoder every time, with
attention that stores the whole score matrix. Both ways must give the same tokens and the same mask logits within 1e-3,
or the script stops. All variants run in turn in every round; medians of the CPU time (on one thread that is the time
on an idle machine, and other work on a shared one disturbs it less), and ratios of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
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
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.model.lisa import image_columns, predicting
from lisa_ros.lisa.model.mask_decoder import upsample_logits
from lisa_ros.lisa.preprocess import for_sam
from lisa_ros.lisa.prompt import QuestionForms, build_prompt, phrase_command, template
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter
from lisa_ros.lisa.tokenizer import Tokenizer

FIRST, SECOND = "the thing to drink from", "the red cup"
EXPLANATION_TOKENS = 60

Saying = Callable[[], AbstractContextManager[None]]
"""Inside its context, the model gives a certain answer."""


class WithoutCache(Segmenter):
    """Reads everything again for every pass: the key-value cache switched off."""

    def _read(self, ids: Sequence[int], image_tokens: Tensor | None, cache: PrefixCache) -> Tensor:
        whole = [*cache.tokens, *ids]
        cache.truncate(0)
        return super()._read(whole, image_tokens, cache)[-len(ids) :]


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
    args = parser.parse_args()
    torch.set_num_threads(1)
    rgb = np.random.default_rng(0).integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory(prefix="lisa-random-") as folder:
        write_checkpoint(Path(folder), SIZES[args.size])
        segmenter = Segmenter.from_checkpoint(folder, device="cpu", precision="fp32")
        clip = CLIPVisionModel.from_pretrained(Path(folder) / CLIP_FOLDER).eval()
    results = (
        compare_concurrency(segmenter, rgb, args.rounds)
        if args.concurrency
        else compare(segmenter, clip, rgb, args.rounds)
    )
    about = {"size": args.size, "image": [args.height, args.width], "rounds": args.rounds}
    about |= {"machine": machine(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "model_speed", **about, **results}))


def explanation(tokenizer: Tokenizer) -> list[int]:
    """Ids of an answer of EXPLANATION_TOKENS tokens that begins with the short one and says no token twice."""
    begin = tokenizer.encode(SHORT_ANSWER)
    taken = {*begin, *tokenizer.encode_prompt(template("llava_v1").question_end)}
    rest = [token for token in range(300, len(tokenizer) - 3) if token not in taken]
    return [*begin, *rest[: EXPLANATION_TOKENS - len(begin) - 1], tokenizer.eos_id]


def compare(segmenter: Segmenter, clip: CLIPVisionModel, rgb: NDArray[np.uint8], rounds: int) -> dict[str, object]:
    """Every way of answering, in turn, ``rounds`` times; prints the table and returns the figures."""
    tokenizer, lisa = segmenter.tokenizer, segmenter.lisa
    short = [*tokenizer.encode(SHORT_ANSWER), tokenizer.eos_id]
    brief = partial(answering, lisa, tokenizer, short)
    explaining = partial(answering, lisa, tokenizer, explanation(tokenizer))
    without_cache = WithoutCache(lisa, segmenter.spec, tokenizer, segmenter._clip, segmenter.spec.conversation, "fp32")
    with torch.inference_mode():
        embedding = lisa.embed_image(torch.from_numpy(for_sam(rgb, lisa.input_size))[None])
    reference = Reference(segmenter, clip, rgb, embedding)
    with brief():
        check_equal(reference, segmenter, rgb)

    def first(how: Segmenter, *, sam: bool = False, draft: bool = True) -> None:
        encoded = how.encode(rgb)
        encoded.features.embedding = None if sam else embedding
        how.ask(encoded, Ask(FIRST), draft=draft)

    seen = segmenter.encode(rgb)
    seen.features.embedding = embedding
    cases: dict[str, tuple[Saying, Callable[[], object]]] = {
        "short, SAM, reference's way": (brief, partial(reference.answer, FIRST)),
        "short, SAM": (brief, partial(first, segmenter, sam=True)),
        "short, reference's way": (brief, partial(reference.answer, FIRST, sam=False)),
        "short": (brief, partial(first, segmenter)),
        "short, no draft": (brief, partial(first, segmenter, draft=False)),
        "short, no cache": (brief, partial(first, without_cache)),
        "short, no draft, no cache": (brief, partial(first, without_cache, draft=False)),
        "second command on the frame": (brief, partial(segmenter.segment, seen, SECOND)),
        "second, no draft": (brief, partial(segmenter.segment, seen, SECOND, draft=False)),
        "explanation, reference's way": (explaining, partial(reference.answer, FIRST, sam=False)),
        "explanation": (explaining, partial(first, segmenter)),
        "explanation, no draft": (explaining, partial(first, segmenter, draft=False)),
        "explanation, no cache": (explaining, partial(first, without_cache)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, (saying, run) in cases.items():
            with saying():
                if name.startswith("second"):
                    segmenter.ask(seen, Ask(FIRST))  # so that the question before was another one
                begun = time.process_time()
                run()
                seconds[name].append(time.process_time() - begun)
        print(f"round {number + 1} of {rounds} done", flush=True)
    return report(seconds)


def report(seconds: dict[str, list[float]]) -> dict[str, object]:
    """Print times and ratios; the same as a dictionary."""
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"\n{'':34}{'median, s':>10}{'min':>9}{'max':>9}{'against the reference':>23}")
    for name, times in seconds.items():
        kind = "explanation" if name.startswith("explanation") else "short, SAM" if "SAM" in name else "short"
        ratio = median[f"{kind}, reference's way"] / median[name]
        print(f"{name:34}{median[name]:10.3f}{min(times):9.3f}{max(times):9.3f}{ratio:22.1f}x")
    ratios = {
        "short answer, SAM included": median["short, SAM, reference's way"] / median["short, SAM"],
        "short answer, but SAM's encoder": median["short, reference's way"] / median["short"],
        "explanation, but SAM's encoder": median["explanation, reference's way"] / median["explanation"],
        "second command, SAM included": median["short, SAM, reference's way"] / median["second command on the frame"],
    }
    print()
    for (name, ratio), goal in zip(ratios.items(), (1.5, 6, 15, 50), strict=True):
        print(f"{name:34}{ratio:9.1f}x   goal at mid size {goal:g}x")
    return {"seconds": seconds, "ratios": ratios}


def check_equal(reference: Reference, segmenter: Segmenter, rgb: NDArray[np.uint8]) -> None:
    """Stop unless both ways give the same ids and nearly the same mask logits."""
    ids, logits = reference.answer(FIRST)
    encoded = segmenter.encode(rgb)
    for draft in (True, False):
        result = segmenter.ask(encoded, Ask(FIRST), details=True, draft=draft)
        apart = float(np.abs(result.details["mask_logits"] - logits.numpy()).max())
        answer_ids = result.details["answer_ids"]
        if answer_ids != ids or apart > 1e-3:
            raise SystemExit(f"the two ways differ: {ids} and {result.details['answer_ids']}, mask logits by {apart}")


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
