"""ELISA's recipe: a LLaVA learns to name proposals. ``lisa train`` with ``recipe: extract``.

Trained: the adapter, and LoRA on the language model. The result is a folder as the reference writes it, which
``lisa segment --model RUN/model`` loads: ``llava`` (a link to the start) and ``models/extract.pth``.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lisa_ros.atomic import replacing
from lisa_ros.errors import OutOfMemory
from lisa_ros.extractive.encoders import AlphaClipEncoder
from lisa_ros.extractive.model.adapter import AttentionBody, Body, MlpBody, SegAdapter
from lisa_ros.extractive.model.alpha_clip import load_alpha_clip
from lisa_ros.extractive.reader import LlavaReader
from lisa_ros.extractive.weights import (
    ADAPTER_SETTINGS,
    LLAVA,
    MEAN,
    MODELS,
    load_elisa,
    read_llava,
    reference_adapter_name,
    reference_lora_name,
)
from lisa_ros.extractive.words import Words
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.weights.spec import read_clip
from lisa_ros.training.datasets.example import Example
from lisa_ros.training.datasets.mixture import open_mixture
from lisa_ros.training.extract_batch import Sample, Sampler
from lisa_ros.training.extract_config import AdapterOptions, ExtractConfig
from lisa_ros.training.extract_objective import ExtractObjective, ReferenceLoss
from lisa_ros.training.loop import Forward, Pace, Pass, TrainingLoop, make_accelerator
from lisa_ros.training.lora import add_lora
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import ParameterGroup, adamw, linear
from lisa_ros.training.snapshot import Snapshots

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger(__name__)

NAME = "extract"
REPORT_EVERY = 10
MEAN_OF = 64
"""Pictures whose candidates give the mean of embeddings."""


def train(content: Mapping[str, Any]) -> int:
    """Run ``recipe: extract`` to its end, from the newest snapshot of the run where there is one. Raises LisaError."""
    config = ExtractConfig.from_dict(content)
    config.folder.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(cpu=config.device == "cpu" or not torch.cuda.is_available())
    try:
        Extraction(config, accelerator).to_the_end()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"out of memory while training: {str(error).splitlines()[0]}; use precision bf16 or batch_size 1"
        ) from error
    print(f"trained; try it with: lisa segment PICTURE COMMAND --model {config.folder / 'model'}")
    return 0


class Extraction:
    """One run.

    Args:
        config: The settings.
        accelerator: accelerate's, which knows the device.

    Raises:
        CheckpointError: The start is missing, damaged or no LLaVA.
        ConfigError: The data or the precision cannot be used.
    """

    def __init__(self, config: ExtractConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        device = accelerator.device
        torch.manual_seed(config.seed)
        self.start = Path(config.start).expanduser()
        spec = read_llava(self.start)
        words = Words.from_folder(spec.base, spec.end, spec.name, named_masks=config.parity)
        clip = read_clip(spec.base)
        encoder = None
        if config.alpha_clip is not None:
            encoder = AlphaClipEncoder(load_alpha_clip(Path(config.alpha_clip).expanduser(), device))
        hidden = int(spec.llava.text_config.hidden_size)  # type: ignore[union-attr]
        size = encoder.size if encoder is not None else clip.config.hidden_size
        adapter = new_adapter(config.adapter, size, hidden)
        precision = Precision.pick(config.precision, device)
        self.model = load_elisa(spec, words.first, precision, device, adapter=adapter)
        self.reader = LlavaReader(self.model, words, clip, encoder, spec.name)
        self.sampler = Sampler(
            self.reader, Path(config.proposals).expanduser() if config.proposals else None, parity=config.parity
        )
        self.mixture = open_mixture(config.data, Path())
        if config.lora.rank:
            add_lora(self.model.language_model, config.lora, quantised=False)
        self.model.to(device)
        self.model.adapter.requires_grad_(True)
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()
        mean = config.folder / MEAN
        if not mean.is_file():
            torch.save(self._mean(), mean)
        self.model.adapter.mean.copy_(torch.load(mean, weights_only=True))
        self.objective = ExtractObjective(self.model)

    def to_the_end(self) -> None:
        """Take all steps that are left, and write the model."""
        config = self.config
        groups: list[ParameterGroup] = [
            {"params": [p for n, p in self.trained.items() if (kind in n)], "factor": factor, "weight_decay": 0.01}
            for kind, factor in (("adapter.", 1.0), ("lora_", config.lora_rate))
        ]
        optimizer = adamw(groups, beta2=0.999)
        snapshots = Snapshots(config.folder / "state", self.accelerator, self.trained)
        TrainingLoop(
            self.accelerator,
            None,
            list(self.trained.values()),
            optimizer,
            linear(optimizer, config.learning_rate, config.steps, config.warmup),
            snapshots,
            Report(config.folder / "train.json", REPORT_EVERY),
            Pace(config.steps, config.save_every, config.steps, 1, config.clip_norm),
        ).run(lambda first: self._forward)
        self.export()

    @property
    def _forward(self) -> Forward:
        config = self.config

        def forward(step: int, number: int) -> Pass:
            del number
            rng = random.Random(f"{config.seed}/{step}")
            torch.manual_seed(rng.getrandbits(32))
            self.model.eval()
            samples = [self._draw(rng) for _ in range(config.batch_size)]
            self.model.adapter.train()
            self.model.language_model.train()
            if config.parity:
                batch, labels, positives = self.sampler.join_as_the_reference(
                    samples, config.unheard, config.position, config.phrases
                )
                device = self.accelerator.device
                loss, _, _ = ReferenceLoss()(
                    self.model, batch.to(device), labels.to(device), self.reader.words.pad_id, positives
                )
                return Pass(loss, {}, len(samples))
            batch = self.sampler.join(samples, config.unheard, rng)
            losses = self.objective(batch.to(self.accelerator.device))
            return Pass(losses.pop("loss"), losses, len(samples))

        return forward

    def _draw(self, rng: random.Random) -> Sample:
        def prepare(example: Example) -> Sample:
            return self.sampler.sample(example, rng)

        sample: Sample = self.mixture.draw(rng, prepare)
        return sample

    def _mean(self) -> Tensor:
        """(D,) mean over the candidates of some pictures."""
        rng = random.Random(f"{self.config.seed}/mean")
        self.model.eval()
        return torch.cat([self._draw(rng).embeddings for _ in range(MEAN_OF)]).mean(0).cpu()

    def export(self) -> Path:
        """Write ``RUN/model``."""
        into = self.config.folder / "model"
        (into / MODELS).mkdir(parents=True, exist_ok=True)
        tensors = {f"adapter.{reference_adapter_name(n)}": p for n, p in self.model.adapter.named_parameters()} | {
            reference_lora_name(n): p for n, p in self.trained.items() if "lora_" in n
        }
        with replacing(into / MODELS / f"{NAME}.pth") as unfinished:
            torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, unfinished)
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in _settings(self.config.adapter).items()}
        settings["end_turn_token"] = self.reader.words.end
        (into / MODELS / f"{NAME}.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
        torch.save(self.model.adapter.mean.cpu().clone(), into / MODELS / MEAN)
        link = into / LLAVA
        if not link.exists():
            link.symlink_to(self.start.resolve(), target_is_directory=True)
        return into


def new_adapter(options: AdapterOptions, embedding_size: int, hidden_size: int) -> SegAdapter:
    """An adapter without training, float32."""
    inner = options.expand * hidden_size
    body: Body
    if options.attention:
        body = AttentionBody(
            embedding_size,
            hidden_size,
            options.num_linears,
            options.num_heads,
            options.num_queries,
            inner,
            options.dropout,
        )
    else:
        body = MlpBody(embedding_size, hidden_size, inner, options.dropout)
    return SegAdapter(embedding_size, hidden_size, body, options.noise)


def _settings(options: AdapterOptions) -> dict[str, Any]:
    values = (
        not options.attention,
        options.expand,
        options.num_linears,
        options.num_heads,
        options.num_queries,
        options.dropout,
        options.noise,
    )
    return dict(zip(ADAPTER_SETTINGS, values, strict=True))
