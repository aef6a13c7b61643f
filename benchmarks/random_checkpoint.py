"""Write a LISA checkpoint of random numbers, in the reference's format and at a given size.

    python benchmarks/random_checkpoint.py mid /tmp/mid                        # fp32 safetensors, 207 M parameters
    python benchmarks/random_checkpoint.py 7b /tmp/7b --format bin --dtype bf16    # two shards, as the released ones

What loads and how fast it runs does not depend on the numbers, except for one thing: random weights never say [SEG].
So one table is not random. LLaMA's residual stream starts as the last token's embedding, and with a small
initialisation of the projections that write to it (GPT-2's 0.02 / sqrt(2 * layers), times STREAM_SCALE) it still
points that way after the last layer. For a fixed answer ``a1 a2 ... </s>`` the row of each token in ``lm_head`` is the
normalised embedding of the token before it (before a1: the prompt's last token, the colon of "ASSISTANT:"). Greedy
decoding then gives that answer whatever the image and the command, through all the layers that a trained model would
use; nothing is skipped. It needs every token of the answer to occur once. The masks are noise that depends on the
command: the projector and the mask decoder are larger by MASK_SCALE for that.

The numbers come from one seeded pool of normal numbers, which every tensor reads from a place of its own: a 7B file is
written at the disk's speed. Files are filled through a memory map or in order, one tensor at a time.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import mmap
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, SamConfig, SamModel, SamVisionConfig

from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.preprocess import CLIP_MEAN, CLIP_STD, ClipPreprocessing
from lisa_ros.lisa.prompt import EXPLAIN_REQUEST, MASK_REQUEST, TEMPLATES
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import build_lisa
from lisa_ros.lisa.weights.names import SAM_NAMES, reference_name
from lisa_ros.lisa.weights.spec import ClipFolder, Spec
from lisa_ros.lisa.weights.tensors import Shape

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FORMATS = ("safetensors", "bin")
CLIP_FOLDER = "clip-random"
SHORT_ANSWER = "Sure, [SEG]."
STREAM_SCALE, MASK_SCALE = 4.0, 4.0
"""Of the projections that write to the residual stream, and of seg_projector and the mask decoder. With 1, another
command would move a mask logit by 4e-6, which no comparison of two implementations sees."""
_SAFETENSORS_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


@dataclass(frozen=True)
class Size:
    """Sizes of the three networks. vocabulary: rows of the embedding; the added tokens are its last three."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocabulary: int
    clip_hidden: int
    clip_layers: int
    clip_heads: int
    sam_hidden: int
    sam_layers: int
    sam_heads: int
    sam_global: tuple[int, ...]
    image_size: int = 1024

    @property
    def llama(self) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            rms_norm_eps=1e-6,
            tie_word_embeddings=False,
        )

    @property
    def clip(self) -> CLIPVisionConfig:
        return CLIPVisionConfig(
            hidden_size=self.clip_hidden,
            intermediate_size=4 * self.clip_hidden,
            num_hidden_layers=self.clip_layers,
            num_attention_heads=self.clip_heads,
            image_size=224,
            patch_size=14,
        )

    @property
    def sam(self) -> SamConfig:
        vision = SamVisionConfig(
            hidden_size=self.sam_hidden,
            num_hidden_layers=self.sam_layers,
            num_attention_heads=self.sam_heads,
            global_attn_indexes=list(self.sam_global),
            mlp_dim=4 * self.sam_hidden,
            image_size=self.image_size,
        )
        prompt = {"image_size": self.image_size, "image_embedding_size": self.image_size // 16}
        return SamConfig(vision_config=vision.to_dict(), prompt_encoder_config=prompt)


SIZES = {
    # One to run in a test, one of 100 MB (bf16) to weigh in a test, one to time on a CPU, and LISA-7B's own.
    "tiny": Size(64, 128, 2, 4, 803, 32, 3, 2, 32, 2, 2, (1,), image_size=256),
    "small": Size(512, 1376, 8, 8, 8003, 192, 4, 3, 192, 4, 3, (3,)),
    "mid": Size(512, 1376, 8, 8, 1003, 768, 12, 12, 768, 12, 12, (2, 5, 8, 11)),
    "7b": Size(4096, 11008, 32, 32, 32004, 1024, 24, 16, 1280, 32, 16, (7, 15, 23, 31)),
}

# --- the model ---


def blank_lisa(size: Size) -> tuple[Lisa, Spec, ClipFolder]:
    """LISA of this size on the meta device, with what a checkpoint of it says about itself."""
    clip = ClipFolder(Path(CLIP_FOLDER), size.clip, ClipPreprocessing())
    spec = Spec("random", size.llama, True, CLIP_FOLDER, -2, size.clip_hidden, 256)
    with torch.device("meta"):
        sam = SamModel(size.sam).state_dict()
        shapes = {"model.visual_model." + SAM_NAMES.theirs(name): tuple(tensor.shape) for name, tensor in sam.items()}
        return build_lisa(spec, shapes, clip), spec, clip


def shapes_of(lisa: Lisa) -> dict[str, Shape]:
    """Our name and the shape of every stored tensor, a tensor that two modules share once."""
    saved = lisa.state_dict()
    tensors = [*lisa.named_parameters(), *(item for item in lisa.named_buffers() if item[0] in saved)]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def clip_shapes(size: Size) -> dict[str, Shape]:
    """Name and shape of every tensor of CLIP's vision model, also of the last layer, which LISA does not read."""
    with torch.device("meta"):
        clip = CLIPVisionModel(size.clip)
    return {name: tuple(t.shape) for name, t in getattr(clip, "vision_model", clip).named_parameters()}


class Numbers:
    """Values of any tensor, by its name: the same for the same seed, dtype and device."""

    pool_size = 4_194_301  # a prime: no row of any matrix comes again

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.pool = torch.randn(self.pool_size, generator=generator).to(device)
        self.dtype = dtype
        self.residual_std = STREAM_SCALE * 0.02 / math.sqrt(2 * size.layers)
        self._pools: dict[float, Tensor] = {}

    def of(self, name: str, shape: Shape) -> Tensor:
        """Values of the tensor with our name ``name``, of this shape."""
        if "norm" in name.rsplit(".", 2)[-2] and name.endswith("weight"):
            return torch.ones(shape, dtype=self.dtype, device=self.pool.device)
        pool = self._scaled(self._std(name))
        count = math.prod(shape)
        begin = zlib.crc32(name.encode()) % self.pool_size
        repeats = (begin + count) // self.pool_size + 1
        if repeats == 1:
            return pool[begin : begin + count].reshape(shape)
        values = torch.empty(count, dtype=self.dtype, device=pool.device)
        done = 0
        while done < count:
            part = pool[begin : begin + count - done]
            values[done : done + len(part)] = part
            done, begin = done + len(part), 0
        return values.reshape(shape)

    def _std(self, name: str) -> float:
        if name.endswith(("positional_embedding", "embed_tokens.weight")):
            return 1.0
        if name.startswith(("seg_projector.", "sam.mask_decoder.")):
            return MASK_SCALE * 0.02
        return self.residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02

    def _scaled(self, std: float) -> Tensor:
        if std not in self._pools:
            self._pools[std] = (self.pool * std).to(self.dtype)
        return self._pools[std]


def answer_rows(tokenizer: Tokenizer, answer: Sequence[int]) -> tuple[list[int], list[int]]:
    """(before, after): the token ids that an answer's chain leads from and to. ValueError where one comes twice."""
    before = [tokenizer.encode_prompt(TEMPLATES["llava_v1"].question_end)[-1], *answer[:-1]]
    if len(set(before)) != len(before) or len(set(answer)) != len(answer):
        raise ValueError(f"a token comes twice in the answer {list(answer)}; a chain of tokens cannot say it")
    return before, list(answer)


@contextmanager
def answering(lisa: Lisa, tokenizer: Tokenizer, answer: Sequence[int]) -> Iterator[None]:
    """Inside, greedy decoding gives ``answer`` (ids, ending with ``</s>``). Only rows of lm_head change."""
    before, after = answer_rows(tokenizer, answer)
    head, embedding = lisa.lm_head.weight, lisa.llama.embed_tokens.weight
    with torch.inference_mode():
        old = head.clone()
        head.zero_()
        head[after] = torch.nn.functional.normalize(embedding[before].float(), dim=-1).to(head.dtype)
    yield
    with torch.inference_mode():
        head.copy_(old)


# --- the folder ---


def write_checkpoint(
    folder: Path,
    size: Size,
    *,
    format: str = "safetensors",
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = 10_000_000_000,
    seed: int = 0,
    answer: str = SHORT_ANSWER,
) -> int:
    """Write LISA into ``folder`` and its CLIP tower into ``folder``/clip-random. Returns the bytes of the weights.

    format: ``bin`` (PyTorch's zip, as released) or ``safetensors``. More than ``shard_bytes`` go into shards with an
    index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, size.vocabulary)
    tokenizer = Tokenizer.from_folder(folder)
    lisa, spec, clip = blank_lisa(size)
    shapes = shapes_of(lisa)
    numbers = Numbers(size, dtype, seed=seed)
    before, after = answer_rows(tokenizer, [*tokenizer.encode(answer), tokenizer.eos_id])

    def values(name: str) -> Tensor:
        tensor = numbers.of(name, shapes[name])
        if name == "lm_head.weight":
            embedding = numbers.of("llama.embed_tokens.weight", shapes["llama.embed_tokens.weight"])
            tensor = tensor.clone()
            tensor[after] = torch.nn.functional.normalize(embedding[before].float(), dim=-1).to(dtype)
        return tensor

    own = {reference_name(lisa, name): name for name in shapes if not name.startswith("vision_tower.")}
    tower = {}
    for name, shape in clip_shapes(size).items():
        tower["vision_model." + name] = "vision_tower.clip." + name
        shapes["vision_tower.clip." + name] = shape
    written = 0
    for place, names in ((folder, own), (folder / CLIP_FOLDER, tower)):
        place.mkdir(exist_ok=True)
        for file, shard in _shards(place, names, shapes, format, dtype.itemsize, shard_bytes):
            write = _write_safetensors if format == "safetensors" else _write_zip
            write(file, {n: shapes[names[n]] for n in shard}, dtype, lambda n, names=names: values(names[n]))
            written += file.stat().st_size
    _write_configs(folder, size, spec, clip, dtype)
    return written


def _shards(
    folder: Path, names: Mapping[str, str], shapes: Mapping[str, Shape], format: str, itemsize: int, limit: int
) -> Iterator[tuple[Path, list[str]]]:
    """The files of a folder with the names in each; writes the index where there are several. names: theirs -> ours."""
    nbytes = {theirs: itemsize * math.prod(shapes[ours]) for theirs, ours in names.items()}
    shards: list[list[str]] = [[]]
    for name in names:
        if shards[-1] and sum(nbytes[n] for n in shards[-1]) + nbytes[name] > limit:
            shards.append([])
        shards[-1].append(name)
    stem, suffix = ("model", ".safetensors") if format == "safetensors" else ("pytorch_model", ".bin")
    files = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}{suffix}" for i in range(len(shards))]
    if len(shards) == 1:
        files = [stem + suffix]
    else:
        where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(nbytes.values())}, "weight_map": where}
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index, indent=2), "utf-8")
    for file, shard in zip(files, shards, strict=True):
        yield folder / file, shard


def _write_zip(file: Path, shapes: Mapping[str, Shape], dtype: torch.dtype, values: Callable[[str], Tensor]) -> None:
    """PyTorch's own file with holes for the numbers, filled through a shared memory map."""
    with FakeTensorMode():
        holes = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
    with torch.serialization.skip_data(materialize_fake_tensors=True):
        torch.save(holes, file)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        mapped = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    for name in list(mapped):
        mapped.pop(name).copy_(values(name))


def _write_safetensors(
    file: Path, shapes: Mapping[str, Shape], dtype: torch.dtype, values: Callable[[str], Tensor]
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _SAFETENSORS_DTYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in shapes:
            out.write(values(name).contiguous().flatten().view(torch.uint8).numpy().data)


def _write_configs(folder: Path, size: Size, spec: Spec, clip: ClipFolder, dtype: torch.dtype) -> None:
    wanted = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
    wanted += "rms_norm_eps max_position_embeddings vocab_size bos_token_id eos_token_id"
    config = {name: getattr(spec.llama, name) for name in wanted.split()}
    config |= {
        "architectures": ["LISAForCausalLM"],
        "model_type": "llava",
        "torch_dtype": str(dtype).removeprefix("torch."),
        "train_mask_decoder": True,
        "out_dim": spec.out_dim,
        "mm_hidden_size": spec.mm_hidden_size,
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": spec.select_layer,
        "mm_vision_tower": CLIP_FOLDER,
        "vision_tower": CLIP_FOLDER,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True), "utf-8")
    tower = clip.config.to_diff_dict() | {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"}
    (folder / CLIP_FOLDER / "config.json").write_text(json.dumps(tower, indent=2, sort_keys=True), "utf-8")
    side = clip.config.image_size
    preprocessing = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    preprocessing |= {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    (folder / CLIP_FOLDER / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2), "utf-8")


# --- the tokenizer ---

_SENTENCES = """Take the red cup that stands to the left of the blue plate and put it beside the kettle.
Where is the drink in this image? Something sharp that cuts bread lies on the wooden table near the window.
Can you segment the thing that a person would use to turn a screw? It is the screwdriver, because its tip fits the slot.
The hammer drives nails, the scissors cut paper, the pliers hold a wire, and the brush cleans what is dirty.
I am thirsty and I want to eat an apple; please find a knife, a fork or a spoon, a bottle of water and a clean glass.
Which of these objects is heavy, which one could break when it falls, and which can be picked up by its handle?"""


def write_tokenizer(folder: Path, vocabulary: int, pieces: int = 700) -> None:
    """A small sentencepiece model with LLaMA's conventions (BPE, byte fallback, <unk> <s> </s> first) and added tokens.

    Trained on a few sentences and LISA's templates, so that a prompt has about as many tokens as with LLaMA's own.
    """
    # Named, so that a new template does not change the pieces and with them the figures.
    templates = [TEMPLATES[name] for name in ("llava_v1", "v1", "llava_llama_2", "compact")]
    text = " ".join(part for template in templates for part in vars(template).values() if part)
    text = text.replace("</s>", "").replace("<s>", "")
    asked = [MASK_REQUEST, EXPLAIN_REQUEST, SHORT_ANSWER.replace("[SEG]", "it"), text]
    sentences = [*_SENTENCES.splitlines(), *asked * 8]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=pieces,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    fill = b"".join(_unused_piece(number) for number in range(pieces, vocabulary - 3))
    (folder / "tokenizer.model").write_bytes(model.getvalue() + fill)
    added = {"[SEG]": vocabulary - 3, "<im_start>": vocabulary - 2, "<im_end>": vocabulary - 1}
    (folder / "added_tokens.json").write_text(json.dumps(added, indent=2), "utf-8")
    controls = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {**controls, "add_bos_token": True, "add_eos_token": False, "legacy": True, "padding_side": "right"}
    config |= {"tokenizer_class": "LlamaTokenizer", "model_max_length": 2048, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(controls | {"pad_token": "<unk>"}, indent=2), "utf-8")


def _unused_piece(number: int) -> bytes:
    """One more piece for the end of a serialized sentencepiece model (ModelProto.pieces), of type UNUSED.

    The added tokens follow the last piece: the slow tokenizer of the reference refuses a gap between their numbers.
    """
    text = f"<unused_{number}>".encode()
    message = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", 0.0) + b"\x18\x05"
    return b"\x0a" + bytes([len(message)]) + message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", choices=FORMATS, default="safetensors")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--shard-gb", type=float, default=10.0, help="largest file, GB (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answer", default=SHORT_ANSWER, help="what greedy decoding will say (default '%(default)s')")
    args = parser.parse_args()
    nbytes = write_checkpoint(
        args.folder,
        SIZES[args.size],
        format=args.format,
        dtype=DTYPES[args.dtype],
        shard_bytes=int(args.shard_gb * 1e9),
        seed=args.seed,
        answer=args.answer,
    )
    print(f"{args.folder}: {nbytes / 1e9:.3f} GB of weights")


if __name__ == "__main__":
    main()
