"""LISA's own recipe: fine-tune a released LISA on one's own data, or train one as the reference did.

What a step sees is drawn from the seed and the step's number, and so are its dropouts. So a run that was killed and
started again computes the same numbers as one that was not.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lisa_ros.atomic import replacing
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CheckpointError, ConfigError, OutOfMemory
from lisa_ros.evaluation.examples import Picture, read_pictures
from lisa_ros.evaluation.metrics import Overlap, ciou, giou, overlap
from lisa_ros.evaluation.run import forced_mask
from lisa_ros.lisa.family import family_named
from lisa_ros.lisa.grounding import seg_grounding
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.names import reference_name
from lisa_ros.lisa.weights.spec import ClipFolder, Spec, read_clip, read_spec, resolve_tower
from lisa_ros.training.batch import Batch, Batcher
from lisa_ros.training.compose import compose
from lisa_ros.training.datasets.mixture import Mixture, open_mixture
from lisa_ros.training.finetune_config import FinetuneConfig, LlavaAndSam, Validation
from lisa_ros.training.loop import Forward, Pace, Pass, TrainingLoop, make_accelerator
from lisa_ros.training.lora import prepare_training, training_mode
from lisa_ros.training.objective import Objective
from lisa_ros.training.phrasing import Phrasing
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import ParameterGroup, adamw, linear
from lisa_ros.training.snapshot import TRAINED, Snapshots, save_trained
from lisa_ros.training.vocabulary import adopt

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

REPORT_EVERY = 10
"""Steps between lines of the report: a step of a large model takes seconds."""


def train(content: Mapping[str, Any]) -> int:
    """Run ``recipe: lisa`` to its end, from the newest snapshot of the run where there is one. Raises LisaError."""
    config = FinetuneConfig.from_dict(content)
    accelerator = _accelerator(config)
    if not accelerator.is_main_process:
        log.setLevel(logging.WARNING)  # the others would say the same
    with accelerator.main_process_first():
        _claim_folder(config)
    try:
        Finetuning(config, accelerator).to_the_end()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"out of memory while training: {str(error).splitlines()[0]}; use precision nf4, batch_size 1 with more "
            "accumulation, or gradient_checkpointing"
        ) from error
    finally:
        accelerator.end_training()
    if accelerator.is_main_process:
        print(f"trained; fold it into a checkpoint with: lisa merge {config.run} --out FOLDER")
    return 0


class Finetuning:
    """One run.

    Args:
        config: The settings.
        accelerator: accelerate's, which knows the devices, the other processes and the precision.
    """

    def __init__(self, config: FinetuneConfig, accelerator: Accelerator) -> None:
        self.config = config
        self.accelerator = accelerator
        self.start = _start_folder(config, accelerator)
        precision = _precision(config, accelerator.device)
        self.spec, self.clip = _look_up(config, self.start)
        self.tokenizer = Tokenizer.from_folder(self.start, strips_blanks=self.spec.strips_blanks)
        self.conversation = config.conversation or self.spec.conversation
        torch.manual_seed(config.seed)
        self.lisa, _ = load_lisa(self.start, self.clip, precision, accelerator.device)
        _check_tokens(self.tokenizer, self.lisa, self.spec)
        trained = prepare_training(
            self.lisa,
            config.lora,
            quantised=precision.quantised,
            checkpointing=config.gradient_checkpointing,
            mask_embed=config.mask_embed,
        )
        self.lisa.to(accelerator.device)  # LoRA was made on the CPU
        self.trained = {reference_name(self.lisa, name): parameter for name, parameter in trained.items()}
        self.precision = precision
        self.mixture = open_mixture(config.data, Path(), Phrasing(self.spec.family))
        if config.validation:
            _check_validation(config.validation)
        reject_id = self.tokenizer.id_of(self.spec.family.reject_token)
        grounding = seg_grounding(self.lisa, self.spec, self.tokenizer)
        self.objective = accelerator.prepare_model(Objective(self.lisa, grounding, config.loss, reject_id))
        self.loop = self._loop()

    def to_the_end(self) -> None:
        """Take all steps that are left."""
        count = sum(parameter.numel() for parameter in self.trained.values())
        log.info(
            "%s: %.1f million numbers are trained, in %s on %s; %d steps",
            *(self.spec.name, count / 1e6, self.precision.name, self.accelerator.device, self.config.steps),
        )
        self.loop.run(self._forward_from, self._validate if self.config.validation else None)

    def _loop(self) -> TrainingLoop:
        config, accelerator = self.config, self.accelerator
        group: ParameterGroup = {
            "params": list(self.trained.values()),
            "factor": 1.0,
            "weight_decay": config.weight_decay,
        }
        optimizer = adamw([group], beta2=0.95)
        return TrainingLoop(
            accelerator,
            self.objective,
            group["params"],
            optimizer,
            linear(optimizer, config.learning_rate, config.steps, config.warmup),
            Snapshots(config.folder / "state", accelerator, self.trained, metadata=self._metadata),
            Report(config.folder / "train.json", REPORT_EVERY, silent=not accelerator.is_main_process),
            Pace(
                config.steps,
                config.save_every,
                config.validation.every if config.validation else config.steps,
                config.accumulation,
                config.clip_norm,
            ),
        )

    # --- one pass ---

    def _forward_from(self, first: int) -> Forward:
        """The forward pass over this process's batches, which are in order from step ``first`` on."""
        batches = self._batches(first)

        def forward(step: int, number: int) -> Pass:
            if number == 0:
                training_mode(self.lisa, True)
                torch.manual_seed(_seed(self.config.seed, step, self.accelerator.process_index))
            losses = self.objective(next(batches).to(self.accelerator.device))
            return Pass(losses.pop("loss"), losses, self.config.batch_size)

        return forward

    def _batches(self, first_step: int) -> Iterator[Batch]:
        config, world = self.config, self.accelerator.num_processes
        first, last = first_step * config.accumulation, config.steps * config.accumulation
        numbers = [number * world + self.accelerator.process_index for number in range(first, last)]
        batcher = Batcher(
            self.tokenizer,
            template(self.conversation),
            self.spec.image_start_end,
            self.lisa.input_size,
            self.clip.preprocessing if self.clip is not None else None,
            # One id stands for the whole image.
            config.max_length - self.lisa.vision_tower.num_tokens + 1,
            self.spec.family,
        )
        if batcher.max_tokens < 16:
            raise ConfigError(
                f"max_length {config.max_length} leaves {batcher.max_tokens} tokens beside the image; "
                f"{self.lisa.vision_tower.num_tokens} are the image's"
            )
        loader = DataLoader(
            _Stream(self.mixture, batcher, config.batch_size, config.seed),
            batch_size=None,
            sampler=numbers,
            num_workers=config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        return iter(loader)

    def _metadata(self, step: int) -> dict[str, str]:
        """What ``lisa merge`` needs to know."""
        return {
            "start": str(self.start.resolve()),
            "tower": str(self.clip.folder.resolve()) if self.clip is not None else "",
            "scale": str(self.config.lora.scale),
            "conversation": self.conversation,
            "step": str(step),
        }

    # --- validation ---

    def _validate(self, step: int) -> dict[str, float]:
        """gIoU and cIoU, teacher-forced as the reference's; the best weights so far are kept in RUN/best.

        Empty in all processes but the main one.
        """
        training_mode(self.lisa, False)
        mine = self._overlaps()
        both = torch.tensor([[o.intersection, o.union] for o in mine], dtype=torch.int64).reshape(-1, 2)
        overlaps = [Overlap(*pair) for pair in _gather(both, self.accelerator).tolist()]
        if not self.accelerator.is_main_process:
            return {}
        scores = {"gIoU": giou(overlaps), "cIoU": ciou(overlaps), "n": len(overlaps)}
        best = self.config.folder / "best"
        if scores["gIoU"] > _best_so_far(best):
            best.mkdir(exist_ok=True)
            save_trained(best / TRAINED, self.trained, self._metadata(step))
            (best / "score.json").write_text(json.dumps({"step": step, **scores}) + "\n", "utf-8")
        return scores

    def _overlaps(self) -> list[Overlap]:
        """Of this process's share of the pictures: each is looked at once, however many processes there are.

        Only where something is to be found, as in ``lisa evaluate``: a true answer without a mask has none to judge.
        """
        validation = self.config.validation
        assert validation is not None
        with torch.inference_mode(), self.accelerator.autocast():
            segmenter = Segmenter(
                self.lisa, self.spec, self.tokenizer, self.clip, self.conversation, self.precision.name
            )
            engine = SupportedEngine(segmenter)
            share = islice(
                _validation_pictures(validation), self.accelerator.process_index, None, self.accelerator.num_processes
            )
            overlaps = []
            for picture in share:
                if present := [one for one in picture.examples if not one.question.absent]:
                    encoded = engine.encode(picture.rgb)
                    overlaps += [overlap(forced_mask(engine, encoded, one), one.truth) for one in present]
        return overlaps


class _Stream(Dataset):
    """Batches by number. The same number is the same batch, whoever asks and when."""

    def __init__(self, mixture: Mixture, batcher: Batcher, size: int, seed: int) -> None:
        self._mixture, self._batcher, self._size, self._seed = mixture, batcher, size, seed

    def __getitem__(self, number: int) -> Batch:
        rng = random.Random(f"{self._seed}/{number}")

        def prepare(example: Any) -> Any:
            return self._batcher.prepare(example, self._mixture.name_skipped)

        return self._batcher.join([self._mixture.draw(rng, prepare) for _ in range(self._size)])


def _accelerator(config: FinetuneConfig) -> Accelerator:
    device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
    mixed = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[_precision(config, device).dtype]
    accelerator = make_accelerator(mixed_precision=mixed, cpu=device.type == "cpu")
    if accelerator.distributed_type.value not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        raise ConfigError(
            f"accelerate is set up for {accelerator.distributed_type.value}; snapshots need every process to hold all "
            "trained weights. Use plain data parallelism: accelerate launch --multi_gpu"
        )
    return accelerator


def _precision(config: FinetuneConfig, device: torch.device) -> Precision:
    """``auto`` is bf16 where the GPU computes in it, else fp32: fp16 has not the range."""
    precision = Precision.pick(config.precision, device)
    if config.precision == "auto" and precision.dtype == torch.float16:
        return Precision.pick("fp32", device)
    return precision


def _claim_folder(config: FinetuneConfig) -> None:
    """Write the configuration into the run's folder. Raises ConfigError where another run lives there."""
    file = config.folder / "config.yaml"
    if file.is_file():
        earlier = yaml.safe_load(file.read_text("utf-8-sig"))
        if differing := config.differs(earlier if isinstance(earlier, dict) else {}):
            raise ConfigError(
                f"{config.folder} holds a run with other settings ({', '.join(differing)}); "
                "choose another 'run', or remove that folder"
            )
        return
    config.folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as unfinished:
        unfinished.write_text(yaml.safe_dump({"recipe": "lisa", **config.as_dict()}, sort_keys=False), "utf-8")


def _start_folder(config: FinetuneConfig, accelerator: Accelerator) -> Path:
    """The checkpoint to start from; made first of LLaVA and SAM, or of another family's."""
    family = family_named(config.family or "lisa")
    folder = config.folder / "start"
    if not isinstance(config.start, LlavaAndSam):
        start = Path(config.start).expanduser()
        if config.family in (None, read_spec(start).family.name):
            return start
        if accelerator.is_main_process and not (folder / "config.json").is_file():
            log.info("adding the tokens of %s in %s", family.name, folder)
            adopt(start, family, folder, config.seed, fresh_mask_embed=config.mask_embed)
    elif accelerator.is_main_process and not (folder / "config.json").is_file():
        log.info("putting LLaVA and SAM together in %s", folder)
        llava, sam = Path(config.start.llava).expanduser(), Path(config.start.sam).expanduser()
        compose(llava, sam, folder, config.seed, family)
    accelerator.wait_for_everyone()
    return folder


def _look_up(config: FinetuneConfig, start: Path) -> tuple[Spec, ClipFolder | None]:
    spec = read_spec(start)
    tower = resolve_tower(config.vision_tower, spec, start)
    return spec, read_clip(tower) if tower is not None else None


def _check_tokens(tokenizer: Tokenizer, lisa: Lisa, spec: Spec) -> None:
    needed = [*spec.family.tokens, *(("<im_start>", "<im_end>") if spec.image_start_end else ())]
    if missing := [token for token in needed if tokenizer.id_of(token) is None]:
        raise CheckpointError(f"{spec.name}: the tokenizer has no {missing[0]}")
    if len(tokenizer) > lisa.llama.config.vocab_size:
        raise CheckpointError(
            f"{spec.name}: the tokenizer has {len(tokenizer)} tokens, the embedding {lisa.llama.config.vocab_size} rows"
        )


def _validation_pictures(validation: Validation) -> Iterator[Picture]:
    return islice(read_pictures(Path(validation.data).expanduser()), validation.limit)


def _check_validation(validation: Validation) -> None:
    """Raises ConfigError where no picture can be scored, before any step is spent."""
    count = 0
    for count, picture in enumerate(_validation_pictures(validation), 1):  # noqa: B007
        if not all(example.question.absent for example in picture.examples):
            return
    if count == 0:
        raise ConfigError(f"validation.data: {validation.data} has no picture that can be used")
    limited = validation.limit is not None
    looked_at = f"the first {validation.limit} (validation.limit)" if limited else f"all {count}"
    raise ConfigError(
        f"validation.data: {validation.data}: on {looked_at} pictures there is nothing to be found, and gIoU needs "
        f"true masks; add pictures with a target{', raise validation.limit' if limited else ''}, or leave "
        "validation out"
    )


def _best_so_far(folder: Path) -> float:
    try:
        return float(json.loads((folder / "score.json").read_text("utf-8"))["gIoU"])
    except (OSError, ValueError, KeyError):
        return -1.0


def _gather(rows: Tensor, accelerator: Accelerator) -> Tensor:
    """Rows of all processes, of which each has another number."""
    if accelerator.num_processes == 1:
        return rows
    from accelerate.utils import gather_object

    return torch.tensor(gather_object(rows.tolist()), dtype=torch.int64).reshape(-1, 2)


def _seed(seed: int, step: int, process: int) -> int:
    return random.Random(f"{seed}/{step}/{process}").getrandbits(63)
