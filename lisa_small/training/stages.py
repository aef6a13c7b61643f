"""The stages that make the small LISA, in order: vision, speech, sight, export.

Each stage reads what the one before left in the run's folder. It can be run alone; once finished, it is repeated when
what it left is removed.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
from collections.abc import Callable, Collection, Iterator, Sized
from dataclasses import dataclass, field, fields, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from lisa_ros.atomic import replacing
from lisa_ros.data.scene_records import SceneRecord
from lisa_ros.data.scenes import read_records
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import save_checkpoint
from lisa_ros.lisa.weights.origin import sha256
from lisa_ros.lisa.weights.spec import read_spec
from lisa_ros.training.losses import bce_per_mask, dice_per_mask
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import ParameterGroup
from lisa_ros.training.settings import build, check_positive
from lisa_small import model_folder
from lisa_small.network.conv import ConvImageEncoder
from lisa_small.network.presence import presence_of
from lisa_small.network.tower import tower_of
from lisa_small.training.augment import camera, letterbox, repaint_background
from lisa_small.training.dialogue import Speech
from lisa_small.training.language import LanguageConfig, Library, Picture, exactness, seg_truth, train_language
from lisa_small.training.model import QUESTIONS, Sizes, build_lisa, build_sam, checkpoint_config
from lisa_small.training.packing import MIDDLES, Cells, Packed, states_at, word_tokens
from lisa_small.training.pointing import supervised_parameters
from lisa_small.training.precision import half_precision
from lisa_small.training.scenes import Scene, read_scenes
from lisa_small.training.vision import VisionConfig, VisionModel, channels_last, stack_pixels, train_vision
from lisa_small.training.vocabulary import train_tokenizer
from lisa_small.training.warm_start import load_finished, recover_prompts, recover_recognition

log = logging.getLogger(__name__)

COVERED = 0.1
"""Share of an image token from which stage 3 takes it for covered by a thing."""

CLASSES = "classes.json"
"""Names of the classes in the order of the model's recognition, in a run's folder and beside a finished model."""

TOKENIZER = ("tokenizer.model", "added_tokens.json")

WEIGHTS = "model.safetensors"

PACKAGED = "lisa-small"
"""What ``start`` calls the model in the package."""

SUPERVISED_RATE = 2.5
"""Factor of the learning rate for queries and keys of supervised attention (lisa_small.training.pointing)."""

STAGES = ("vision", "speech", "sight", "export")


@dataclass(frozen=True)
class Recipe:
    """A recipe, as its yaml says.

    Args:
        name: Of the model.
        sizes: Of the model.
        vision: Settings of stage 1.
        speech: Rounds of stage 2, one after the other, each with its own learning rate.
        sight: Rounds of stage 3.
        conversations: ``module:function`` of the supply of conversations.
        sentences: ``module:function`` of the sentences that the tokenizer is trained on.
        vocabulary: Tokens.
        threads: Of torch.
        seed: Of everything random outside of the stages.
        validation: The first scenes, so many, are not trained on.
        sight_scenes: Largest number of scenes of stage 3, which keeps their embeddings in memory.
        sight_data: Folder of scenes for stage 3 alone: in pictures that stage 1 never saw, it errs as in use.
        trunk: File of the pretrained trunk.
        start: Folder of a finished model to go on from, or PACKAGED.
        mix: Finished models, named as for ``start``, and their shares in what is exported; the rest is this run's.
            Between a model and one that was trained on from it there is often a better one than either (Wortsman et
            al., 2022, Robust fine-tuning of zero-shot models), and so between two runs that began alike.
    """

    name: str
    sizes: Sizes
    vision: VisionConfig
    speech: tuple[LanguageConfig, ...]
    sight: tuple[LanguageConfig, ...]
    conversations: str
    sentences: str
    vocabulary: int = 1800
    threads: int = 1
    seed: int = 0
    validation: int = 120
    sight_scenes: int = 4000
    sight_data: str | None = None
    trunk: str | None = None
    start: str | None = None
    mix: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive(self, "vocabulary", "threads", "validation", "sight_scenes")
        if not self.vision.phases and self.start is None:
            raise ConfigError("vision has no phases and the recipe no start; without either nothing can be seen")
        if not isinstance(self.mix, dict):
            raise ConfigError(f"mix is {self.mix}; name the other models with their shares: {{{PACKAGED}: 0.25}}")
        if any(share <= 0 for share in self.mix.values()) or sum(self.mix.values()) >= 1:
            raise ConfigError(f"mix is {self.mix}; shares of other models are over 0 and leave something to this run")


@dataclass(frozen=True)
class Job:
    """What to do with a recipe.

    Args:
        data: A folder of `lisa scenes`.
        out: Folder of the run; its model is OUT/model.
        stages: Some of STAGES; a stopped one goes on where it was.
        limit: Largest number of scenes; None: all.
    """

    data: str
    out: str
    stages: tuple[str, ...] = STAGES
    limit: int | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.stages) - set(STAGES)):
            raise ConfigError(f"no stage is called {', '.join(unknown)}; choose from {', '.join(STAGES)}")


def train(configuration: dict[str, Any]) -> int:
    """Run ``lisa train`` with ``recipe: small``.

    Args:
        configuration: The settings of a Job and those of a Recipe, in one mapping.

    Raises:
        ConfigError: A setting or the data cannot be used.
        TrainingDiverged: The loss or a weight is not finite.
    """
    names = {field.name for field in fields(Job)}
    job = build(Job, {name: value for name, value in configuration.items() if name in names})
    settings = {name: value for name, value in configuration.items() if name not in names | {"recipe"}}
    run = Run(read_recipe(settings, beside=names), Path(job.data), Path(job.out), job.limit)
    run.check(job.stages)
    for stage in job.stages:
        getattr(run, stage)()
    return 0


def read_recipe(settings: dict[str, Any], beside: Collection[str] = ()) -> Recipe:
    """Check the settings of a recipe's yaml.

    Args:
        settings: As read from the file.
        beside: Names of other settings in the same file.

    Raises:
        ConfigError: A setting is missing, unknown or of another type; the message names it.
    """
    return build(Recipe, settings, beside=beside)


def _keep(state: dict[str, Any], path: Path) -> None:
    with replacing(path) as unfinished:
        torch.save(state, unfinished)


def _finished(model: str) -> Path:
    """The folder of a finished model, or of PACKAGED. Raises ConfigError where it lacks its classes or its weights."""
    folder = model_folder() if model == PACKAGED else Path(model)
    if lacks := [name for name in (CLASSES, WEIGHTS) if not (folder / name).is_file()]:
        raise ConfigError(f"{folder} is no finished small model: it has no {lacks[0]}")
    return folder


def _shown_classes(records: list[SceneRecord]) -> list[str]:
    return sorted({o["class"] for record in records for o in record["objects"]})


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"'{name}' in the recipe is not module:function: {error}") from error
    if not callable(function):
        raise ConfigError(f"'{name}' in the recipe is no function")
    return function


@dataclass
class Run:
    """One recipe, its data and its folder."""

    recipe: Recipe
    data: Path
    folder: Path
    limit: int | None = None
    scenes: list[Scene] = field(default_factory=list)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.recipe.threads)
        torch.manual_seed(self.recipe.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scenes = self._read(self.data)
        self.classes = self._classes()
        self.index = {name: i for i, name in enumerate(self.classes)}
        log.info("%d scenes of %d classes", len(self.scenes), len(self.classes))

    def check(self, stages: Collection[str]) -> None:
        """Look at what ``stages`` will need in hours. Raises ConfigError."""
        for name in (self.recipe.conversations, self.recipe.sentences):
            _function(name)
        for stage, rounds in (("speech", self.recipe.speech), ("sight", self.recipe.sight)):
            if stage in stages:
                self._check_rounds(stage, rounds)
        if "sight" in stages and self.recipe.sight_data is not None:
            data = Path(self.recipe.sight_data)
            self._check_count(records := read_records(data)[: self.limit], data)
            self._check_classes(_shown_classes(records), self.classes, data)
        if "export" in stages:
            for model in self.recipe.mix:
                self._partner(model)

    def _check_rounds(self, stage: str, rounds: Collection[LanguageConfig]) -> None:
        """Raises ConfigError where there are none, or the supply of commands cannot do what they ask for."""
        if not rounds:
            raise ConfigError(f"{stage} has no rounds; give it one")
        asked = (("kinds", any(r.kinds for r in rounds)), ("weight", any(r.known < 1 for r in rounds)))
        try:
            supply = signature(_function(self.recipe.conversations))
            supply.bind_partial(**{name: None for name, needed in asked if needed})
        except TypeError as error:
            raise ConfigError(
                f"{self.recipe.conversations} {error}, which a round of {stage} needs (kinds for its 'kinds', weight "
                "for a 'known' below 1)"
            ) from error

    def _read(self, data: Path) -> list[Scene]:
        """Raises ConfigError where there are too few."""
        scenes = read_scenes(data, longest_side=self.recipe.sizes.image_size, limit=self.limit)
        self._check_count(scenes, data)
        return scenes

    def _check_count(self, scenes: Sized, data: Path) -> None:
        if len(scenes) <= self.recipe.validation:
            raise ConfigError(f"{data} has {len(scenes)} usable scenes; more than {self.recipe.validation} are needed")

    def _classes(self) -> list[str]:
        """Names in the order that the run, or the model it goes on from, gave them: later scenes do not move it.

        Raises ConfigError where scenes show others."""
        path = self.folder / CLASSES
        names = _shown_classes([scene.record for scene in self.scenes])
        if not path.exists():
            start = self._start()
            path.write_text(json.dumps(names, indent=1) + "\n" if start is None else (start / CLASSES).read_text())
        known: list[str] = json.loads(path.read_text())
        if (start := self._start()) is not None and json.loads((start / CLASSES).read_text()) != known:
            raise ConfigError(f"{path} and {start / CLASSES} name other classes; take another 'out' for this start")
        self._check_classes(names, known, self.data)
        return known

    def _check_classes(self, names: list[str], known: list[str], data: Path) -> None:
        if unknown := sorted(set(names) - set(known)):
            raise ConfigError(f"{data} shows classes that {self.folder} does not know: {', '.join(unknown)}")

    def _partner(self, model: str) -> Lisa:
        """A finished model to mix with. Raises ConfigError where its classes, its sizes (but for MLPs, which may be
        narrower) or its words are not this run's."""
        folder = _finished(model)
        if json.loads((folder / CLASSES).read_text()) != self.classes:
            raise ConfigError(f"{folder} names other classes than this run; they cannot be mixed")
        mine, theirs = self.recipe.sizes, read_spec(folder)
        if theirs.llama.hidden_size != mine.hidden or theirs.llama.num_hidden_layers != mine.layers:
            raise ConfigError(
                f"{folder} has {theirs.llama.num_hidden_layers} layers of {theirs.llama.hidden_size}, this run "
                f"{mine.layers} of {mine.hidden}; they cannot be mixed"
            )
        if (units := theirs.llama.intermediate_size) > mine.intermediate:
            raise ConfigError(
                f"{folder} has MLPs of {units} units, this run of {mine.intermediate}; they cannot be mixed"
            )
        self.tokenizer()
        if any((folder / name).read_bytes() != (self.folder / name).read_bytes() for name in TOKENIZER):
            raise ConfigError(f"{folder} has another tokenizer than this run; they cannot be mixed")
        partner = self.lisa(self._untrained_vision(), len(self.tokenizer()))
        load_finished(folder, partner)
        return partner

    def _start(self) -> Path | None:
        """The folder of the finished model to go on from. Raises ConfigError where it does not name its classes."""
        return None if self.recipe.start is None else _finished(self.recipe.start)

    @property
    def split(self) -> tuple[list[Scene], list[Scene]]:
        """(train, validation): the first scenes validate."""
        return self._split(self.scenes)

    def sight_split(self) -> tuple[list[Scene], list[Scene]]:
        """(train, validation) of the scenes for sight, read anew where they are its own."""
        scenes = self.scenes
        if self.recipe.sight_data is not None:
            scenes = self._read(data := Path(self.recipe.sight_data))
            self._check_classes(_shown_classes([scene.record for scene in scenes]), self.classes, data)
        train, validation = self._split(scenes)
        return train[: self.recipe.sight_scenes], validation

    def _split(self, scenes: list[Scene]) -> tuple[list[Scene], list[Scene]]:
        return scenes[self.recipe.validation :], scenes[: self.recipe.validation]

    def started(self) -> dict[str, Any]:
        """What the model of ``start`` brings along: "vision" of stage 1, "lisa" of the language stages. Found once.

        Raises ConfigError where the run began with another model."""
        path, folder = self.folder / "start.pt", self._start()
        assert folder is not None
        weights = sha256(folder / WEIGHTS)
        if not path.exists():
            vision = self._untrained_vision()
            lisa = self.lisa(vision, len(self.tokenizer()))
            load_finished(folder, lisa)
            log.info("going on from %s", folder)
            error = recover_prompts(lisa, self.library(self.split[1] + self.split[0][:400]), vision)
            log.info("its prompts are got back but for a squared error of %.4f", error)
            recover_recognition(lisa, vision)
            # While a LISA is around them, SAM holds the encoder too: its tensors are there twice.
            own = {name: t for name, t in vision.state_dict().items() if not name.startswith("sam.vision_encoder.")}
            _keep({"vision": own, "lisa": _language_state(lisa), "of": weights}, path)
        began = torch.load(path, weights_only=True)
        if began.get("of", weights) != weights:  # what was begun by an older release does not say
            raise ConfigError(f"{self.folder} began with other weights than {folder} has now; take another 'out'")
        return began

    # --- stage 1 ---

    def vision_model(self, trained: bool) -> VisionModel:
        model = self._untrained_vision()
        if self.recipe.trunk and not trained:
            model.encoder.load_state_dict(load_file(self.recipe.trunk), strict=False)
        if self.recipe.start and not trained:
            model.load_state_dict(self.started()["vision"], strict=False)
        if trained:
            path = self.folder / "vision.pt"
            if not path.exists():
                raise ConfigError(f"{path} does not exist; run the stage 'vision' first")
            model.load_state_dict(torch.load(path, weights_only=True)["model"])
        return channels_last(model)

    def _untrained_vision(self) -> VisionModel:
        sizes = self.recipe.sizes
        encoder = ConvImageEncoder(sizes.channels)
        sam = build_sam(sizes.channels, sizes.image_size, encoder.stride, sizes.decoder_mlp)
        return VisionModel(encoder, sam, self.classes)

    def vision(self) -> None:
        """Image encoder and mask decoder. Raises ConfigError where an earlier release left the stage unfinished."""
        path, steps = self.folder / "vision.pt", sum(phase.steps for phase in self.recipe.vision.phases)
        if path.exists():
            done = torch.load(path, weights_only=True, mmap=True)["step"]
            if done < steps:
                raise ConfigError(f"{path} is of {done} steps, the recipe of {steps}; remove it to train anew")
            log.info("vision is done; remove %s to repeat it", path)
            return
        train, validation = self.split
        train_vision(self.vision_model(False), train, validation, self.recipe.vision, self.folder)

    # --- stage 2 ---

    def tokenizer(self) -> Tokenizer:
        """The run's: of the model it goes on from, or trained on what it will hear and say."""
        if not (self.folder / TOKENIZER[0]).exists():
            if (start := self._start()) is None:
                train_tokenizer(self._texts(), self.recipe.vocabulary, self.folder)
            else:
                for name in TOKENIZER:
                    (self.folder / name).write_bytes((start / name).read_bytes())
        return Tokenizer.from_folder(self.folder)

    def _texts(self) -> Iterator[str]:
        rng = random.Random(self.recipe.seed)
        conversations = _function(self.recipe.conversations)
        yield from (text.replace("[SEG]", "") for text in _function(self.recipe.sentences)(self.recipe.seed))
        for scene in self.scenes[:1500]:
            for conversation in conversations(scene.record, rng, 4, "train"):
                for turn in conversation["turns"]:
                    yield f"USER: {turn['command']} Explain why. ASSISTANT:"
                    yield turn["answer"].replace("[SEG]", "")

    def library(self, scenes: list[Scene]) -> Library:
        sizes = self.recipe.sizes
        speech = Speech(self.tokenizer(), template("compact"), QUESTIONS)
        supply = _function(self.recipe.conversations)
        return Library(scenes, self.index, speech, supply, sizes.image_size, sizes.grid)

    def lisa(self, vision: VisionModel, vocabulary: int) -> Lisa:
        torch.manual_seed(self.recipe.seed)
        lisa = build_lisa(self.recipe.sizes, vocabulary, vision.sam, vision.encoder, len(self.classes))
        recognition, _ = tower_of(lisa).reader
        recognition.load_state_dict(vision.recognition.state_dict())
        return lisa

    def speech(self) -> None:
        """The language model over pictures made of words, and the way from its state to the mask decoder's prompts."""
        rounds = self._rounds_left("speech", self.recipe.speech)
        if not rounds:
            return
        vision = self.vision_model(True)
        library = self.library(self.split[0])
        lisa = self.lisa(vision, len(library.speech.tokenizer))
        if self.recipe.start:
            lisa.load_state_dict(self.started()["lisa"], strict=False)
        if rounds[0][0] > 0:
            path = self.folder / "speech.pt"
            _load_language(lisa, torch.load(path, weights_only=True)["lisa"], path)
        tower = tower_of(lisa)
        _, words = tower.reader
        held_out = self.library(self.split[1])

        def prompt_loss(
            hidden: Tensor, packed: Packed, numbers: list[int], rng: random.Random
        ) -> tuple[Tensor, dict[str, float]]:
            loss = self._prompt_loss(lisa, vision, library, hidden, packed, numbers)
            return loss, {"prompt": float(loss.detach())}

        for done, config in rounds:

            def picture_from(library: Library, config: LanguageConfig = config) -> Picture:
                def picture(number: int, rng: random.Random) -> tuple[Tensor, Tensor]:
                    cells = library.cells[number]
                    index = self._cells_shown(cells.index, cells, config, rng)
                    return index, word_tokens(lisa, cells, index)

                return picture

            groups = _language_groups(lisa, [tower.position, *words.parameters()], config.weight_decay)
            report, folder = self._traces("speech", done)
            validate = partial(
                exactness, lisa, held_out, picture_from(held_out), "test", count=min(96, len(held_out.scenes))
            )
            snapshots = train_language(
                lisa, library, config, groups, picture_from(library), prompt_loss, validate, report, folder
            )
            _keep({"lisa": _language_state(lisa), "rounds": done + 1}, self.folder / "speech.pt")
            snapshots.clear()

    def _rounds_left(self, stage: str, rounds: tuple[LanguageConfig, ...]) -> list[tuple[int, LanguageConfig]]:
        """Numbers and settings of the rounds that are still to be done."""
        path = self.folder / f"{stage}.pt"
        done = torch.load(path, weights_only=True)["rounds"] if path.exists() else 0
        if done == len(rounds):
            log.info("%s is done; remove %s to repeat it", stage, path)
        return list(enumerate(rounds))[done:]

    def _traces(self, stage: str, number: int) -> tuple[Report, Path]:
        """Where a round writes its losses, and the folder of its snapshots."""
        return Report(self.folder / f"{stage}-{number}.json"), self.folder / "state" / f"{stage}-{number}"

    def _cells_shown(self, covered: Tensor, cells: Cells, config: LanguageConfig, rng: random.Random) -> Tensor:
        """(n,) cells of the grid that become image tokens: some of ``covered``, then some of the others."""
        chosen = covered.tolist()
        empty = sorted(set(range(self.recipe.sizes.grid**2)) - set(chosen))
        if config.covered_cells is not None and len(chosen) > config.covered_cells:
            middles = cells.index[cells.share[:, MIDDLES] > 0].tolist()
            best = {*middles, *(int(part.argmax()) for part in cells.parts.values())} & set(chosen)
            others = sorted(set(chosen) - best)
            chosen = sorted(best) + rng.sample(others, min(len(others), max(0, config.covered_cells - len(best))))
        return torch.tensor(chosen + rng.sample(empty, min(config.empty_cells, len(empty))), dtype=torch.long)

    def _prompt_loss(
        self, lisa: Lisa, vision: VisionModel, library: Library, hidden: Tensor, packed: Packed, numbers: list[int]
    ) -> Tensor:
        """How far the embedding of ``[SEG]`` is from the prompt that stage 1 learned for the same things."""
        if not packed.segs:
            return hidden.sum() * 0.0
        scenes, cells = [library.scenes[n] for n in numbers], [library.cells[n] for n in numbers]
        classes, places, single = seg_truth(packed.segs, scenes, cells, self.index)
        with torch.no_grad(), half_precision("fp32"):
            prompts = vision.prompts(classes[None], places[None], single[None])[0]
        states = states_at(hidden, [row for row, _, _ in packed.segs], [at for _, at, _ in packed.segs])
        return F.mse_loss(lisa.seg_projector(states).float(), prompts)

    # --- stage 3 ---

    @torch.no_grad()
    def embeddings(self, vision: VisionModel, scenes: list[Scene]) -> Tensor:
        """(n, C, g, g) float16 of the frozen encoder, each picture once: every other one as a bad camera sees it, and a
        share of ``vision.repaint`` on another table."""
        vision.eval()
        size, embedded = self.recipe.sizes.image_size, []
        for number, scene in enumerate(tqdm(scenes, "embedding", unit="picture", disable=None)):
            square = letterbox(scene.rgb, scene.ids, size)
            rng = random.Random(f"{self.recipe.seed}/{number}")
            if rng.random() < self.recipe.vision.repaint:
                square = repaint_background(square, rng)
            if number % 2:
                square = replace(square, rgb=camera(square.rgb, rng))
            with half_precision(self.recipe.vision.precision):
                embedded.append(vision.embed(stack_pixels([square]))[0].half())
        return torch.stack(embedded)

    def sight(self) -> None:
        """Real image tokens for the language model, and masks at the end of its answers."""
        rounds = self._rounds_left("sight", self.recipe.sight)
        if not rounds:
            return
        vision = self.vision_model(True)
        scenes, validation = self.sight_split()
        library = self.library(scenes)
        lisa = self.lisa(vision, len(library.speech.tokenizer))
        path = self.folder / ("sight.pt" if rounds[0][0] > 0 else "speech.pt")
        if not path.exists():
            raise ConfigError(f"{path} does not exist; run the stage 'speech' first")
        before = torch.load(path, weights_only=True)
        # What recognises cells is the vision stage's, which may have gone on since.
        state = {key: value for key, value in before["lisa"].items() if "recognition" not in key}
        lisa.load_state_dict(state, strict=False)
        if "decoder" in before:
            lisa.sam.mask_decoder.load_state_dict(before["decoder"])
        log.info("encoding %d pictures", len(scenes))
        encoded = self._encoded(lisa, library, self.embeddings(vision, scenes))
        held_out = self.library(validation)
        encoded_held_out = self._encoded(lisa, held_out, self.embeddings(vision, validation))

        for done, config in rounds:

            def picture_from(encoded: EncodedScenes, config: LanguageConfig = config) -> Picture:
                def picture(number: int, rng: random.Random) -> tuple[Tensor, Tensor]:
                    index = self._cells_shown(encoded.covered[number], encoded.library.cells[number], config, rng)
                    return index, lisa.image_tokens(encoded.embeddings[number][None].float())[0, index]

                return picture

            def losses(
                hidden: Tensor,
                packed: Packed,
                numbers: list[int],
                rng: random.Random,
                config: LanguageConfig = config,
            ) -> tuple[Tensor, dict[str, float]]:
                prompt = self._prompt_loss(lisa, vision, library, hidden, packed, numbers)
                sampled = rng.sample(packed.segs, min(round(config.drawn * len(numbers)), len(packed.segs)))
                bce, dice = self._draw(lisa, vision, encoded, hidden, sampled, numbers)
                parts = {"prompt": float(prompt.detach()), "bce": float(bce.detach()), "dice": float(dice.detach())}
                return prompt + config.draw_weight * (2 * bce + 0.5 * dice), parts

            tower = [p for name, p in tower_of(lisa).named_parameters() if "recognition" not in name]
            groups = _language_groups(lisa, tower, config.weight_decay)
            groups += _groups(list(lisa.sam.mask_decoder.parameters()), 0.3, config.weight_decay)
            report, folder = self._traces("sight", done)
            validate = partial(
                exactness, lisa, held_out, picture_from(encoded_held_out), "test", count=min(96, len(held_out.scenes))
            )
            snapshots = train_language(
                lisa, library, config, groups, picture_from(encoded), losses, validate, report, folder
            )
            finished = {"lisa": _language_state(lisa), "decoder": lisa.sam.mask_decoder.state_dict()}
            _keep({**finished, "rounds": done + 1}, self.folder / "sight.pt")
            snapshots.clear()

    def _encoded(self, lisa: Lisa, library: Library, embeddings: Tensor) -> EncodedScenes:
        return EncodedScenes(library, embeddings, [self._covered(lisa, embedding) for embedding in embeddings])

    @torch.no_grad()
    def _covered(self, lisa: Lisa, embedding: Tensor) -> Tensor:
        """(n,) image tokens on which something is seen. What recognises it is frozen, so this is found once."""
        shares = tower_of(lisa).shares(embedding[None].float())[0, :, : len(self.classes)]
        return (shares.sum(1) > COVERED).nonzero()[:, 0]

    def _draw(
        self,
        lisa: Lisa,
        vision: VisionModel,
        encoded: EncodedScenes,
        hidden: Tensor,
        sampled: list[tuple[int, int, list[int]]],
        numbers: list[int],
    ) -> tuple[Tensor, Tensor]:
        """BCE and Dice of some of the masks, drawn from the states that predict ``[SEG]``."""
        logits, truths = [], []
        for row, number in enumerate(numbers):
            mine = [(at, target_ids) for r, at, target_ids in sampled if r == row]
            if not mine:
                continue
            prompts = lisa.seg_projector(hidden[row, [at for at, _ in mine]])
            logits.append(vision.decode(encoded.embeddings[number][None].float(), prompts[None])[0].float())
            truths += [encoded.library.truth(number, target_ids) for _, target_ids in mine]
        if not logits:
            zero = hidden.sum() * 0.0
            return zero, zero
        masks, targets = torch.cat(logits), torch.stack(truths)
        return bce_per_mask(masks, targets).mean(), dice_per_mask(masks, targets).mean()

    # --- export ---

    def export(self, into: Path | None = None) -> Path:
        """A checkpoint like any other, in half precision: in ``folder/model`` by default."""
        into = into or self.folder / "model"
        vision = self.vision_model(True)
        tokenizer = self.tokenizer()
        lisa = self.lisa(vision, len(tokenizer))
        state = torch.load(self.folder / "sight.pt", weights_only=True)
        _load_language(lisa, state["lisa"], self.folder / "sight.pt")
        lisa.sam.mask_decoder.load_state_dict(state["decoder"])
        if self.recipe.mix:
            lisa.load_state_dict(self._mixed(lisa.state_dict()))
        config = checkpoint_config(self.recipe.sizes, len(tokenizer), self.recipe.name, len(self.classes))
        save_checkpoint(lisa, config, into, dtype=torch.float16)
        for name in (*TOKENIZER, CLASSES):
            (into / name).write_bytes((self.folder / name).read_bytes())
        log.info("the model is in %s", into)
        return into

    def _mixed(self, mine: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted mean of ``mine`` and the models of ``mix``. Raises ConfigError as _partner."""
        rest = 1 - sum(self.recipe.mix.values())
        mixed = {name: rest * tensor for name, tensor in mine.items()}
        for model, share in self.recipe.mix.items():
            for name, tensor in self._partner(model).state_dict().items():
                mixed[name] += share * tensor
        return mixed


@dataclass(frozen=True, eq=False)
class EncodedScenes:
    """Scenes as the frozen image encoder sees them: a library, the embeddings (n, C, g, g) of its pictures, and the
    image tokens of each that show something."""

    library: Library
    embeddings: Tensor
    covered: list[Tensor]


def _language_groups(lisa: Lisa, tower: list[nn.Parameter], decay: float) -> list[ParameterGroup]:
    """What is trained of the language model, of the ways into it and out of it, and ``tower`` of the image tower."""
    supervised = supervised_parameters(lisa)
    parts = (lisa.image_projector, lisa.llama, lisa.lm_head, lisa.seg_projector)
    others = [p for part in parts for p in part.parameters() if all(p is not one for one in supervised)]
    return [
        *_groups([*tower, *others], 1.0, decay),
        *_groups(supervised, SUPERVISED_RATE, decay),
        *_presence_groups(lisa),
    ]


def _groups(parameters: list[nn.Parameter], factor: float, decay: float) -> list[ParameterGroup]:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    return [
        {"params": matrices, "factor": factor, "weight_decay": decay},
        {"params": vectors, "factor": factor, "weight_decay": 0.0},
    ]


def _load_language(lisa: Lisa, state: dict[str, Tensor], path: Path) -> None:
    """Take over what a stage of this run learned. Raises ConfigError where it has other layers than the recipe."""
    if state.keys() != _language_state(lisa).keys():
        raise ConfigError(f"{path} is of a model of other sizes than the recipe; take another 'out', or its sizes")
    lisa.load_state_dict(state, strict=False)


def _presence_groups(lisa: Lisa) -> list[ParameterGroup]:
    """What it adds to the logits starts at 0 and has far to go, in steps as long as the learning rate."""
    presence = presence_of(lisa)
    if presence is None:
        return []
    others = [presence.threshold, *presence.query.parameters()]
    return [*_groups(others, 1.0, 0.0), {"params": [presence.tokens], "factor": 10.0, "weight_decay": 0.0}]


def _language_state(lisa: Lisa) -> dict[str, Tensor]:
    """Everything but SAM and its encoder."""
    return {name: tensor for name, tensor in lisa.state_dict().items() if not name.startswith("sam.")}
