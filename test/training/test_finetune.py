"""LISA's recipe: the reference's losses and gradients, what is trained, and a run that survives a kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from machine_speed import limit
from PIL import Image
from safetensors.torch import load_file, save_file
from whole_answer import segment

from lisa_ros.cli import merge as merge_cli
from lisa_ros.cli import train as cli
from lisa_ros.data.picture import BadExample
from lisa_ros.engine.api import Turn
from lisa_ros.errors import CheckpointError, ConfigError, TrainingDiverged
from lisa_ros.evaluation.metrics import Overlap
from lisa_ros.lisa.grounding import seg_grounding
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.quantize import Precision
from lisa_ros.lisa.prompt import template
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.lisa.weights.load import load_lisa
from lisa_ros.lisa.weights.names import reference_name
from lisa_ros.lisa.weights.spec import read_clip, read_spec, resolve_tower
from lisa_ros.training import finetune
from lisa_ros.training.batch import Batch, Batcher
from lisa_ros.training.compose import compose
from lisa_ros.training.datasets.example import Dialogue, Example
from lisa_ros.training.finetune_config import FinetuneConfig
from lisa_ros.training.loop import TrainingLoop
from lisa_ros.training.lora import LoraOptions, prepare_training, training_mode
from lisa_ros.training.objective import LossWeights, Objective
from lisa_ros.training.snapshot import read_trained

pytestmark = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("accelerate", "peft", "tensorboard")),
    reason="needs what training needs: pip install 'lisa_ros[train]'",
)

COMPACT = Path(__file__).parents[1] / "golden"
FULL = Path(__file__).resolve().parents[3] / "shared" / "goldens"
CPU = torch.device("cpu")
REASON = "Because one drinks from it."


def load(folder: Path, precision: str = "fp32") -> Lisa:
    clip = read_clip(resolve_tower(None, read_spec(folder / "ckpt"), folder / "ckpt"))
    return load_lisa(folder / "ckpt", clip, Precision.pick(precision, CPU), CPU)[0]


def batcher(folder: Path, lisa: Lisa, max_tokens: int = 257) -> Batcher:
    clip = read_clip(folder / "clip-tiny").preprocessing
    return Batcher(
        Tokenizer.from_folder(folder / "ckpt"), template("llava_v1"), True, lisa.input_size, clip, max_tokens
    )


def objective(folder: Path, lisa: Lisa) -> Objective:
    spec = read_spec(folder / "ckpt")
    return Objective(lisa, seg_grounding(lisa, spec, Tokenizer.from_folder(folder / "ckpt")), LossWeights())


def is_lora(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def no_skip(reason: str) -> None:
    raise AssertionError(reason)


# --- the reference's numbers ---


def training_cases() -> list[Any]:
    found = [(COMPACT, *case) for case in json.loads((COMPACT / "train.json").read_text()).items()]
    if (FULL / "A").is_dir():
        found += [(FULL / "A", *case) for case in json.loads((FULL / "A" / "cases.json").read_text())["train"].items()]
    return [pytest.param(*case, id=f"{case[0].name}-{case[1]}") for case in found]


def golden_examples(folder: Path, facts: dict[str, Any]) -> list[Example]:
    arrays, examples = np.load(folder / facts["npz"]), []
    for number, image in enumerate(facts["images"]):
        masks, dialogues = arrays[f"masks_{number}"], []
        for text in facts["conversations"][facts["offset"][number] : facts["offset"][number + 1]]:
            question, _, answer = text.partition("<im_end>\n")[2].partition(" ASSISTANT: ")
            count = answer.count("[SEG]")
            dialogues.append(Dialogue((Turn(question, answer.removesuffix("</s>")),), masks[:count]))
            masks = masks[count:]
        rgb = np.asarray(Image.open(folder / image).convert("RGB"))
        examples.append(Example(image, rgb, tuple(dialogues)))
    return examples


@pytest.mark.parametrize(("folder", "name", "facts"), training_cases())
def test_losses_and_gradients_are_the_references(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Through the path of a run: examples, batch, LoRA in place (it adds nothing before the first step), objective."""
    lisa = load(folder)
    prepare_training(lisa, LoraOptions(), quantised=False, checkpointing=True)
    lisa.llama.layers[0].self_attn.q_proj.base_layer.requires_grad_(
        True
    )  # frozen in a run; the golden knows its gradient
    training_mode(lisa, True)
    how = batcher(folder, lisa)
    batch = how.join([how.prepare(example, no_skip) for example in golden_examples(folder, facts)])
    arrays = np.load(folder / facts["npz"])
    assert np.array_equal(batch.ids, arrays["input_ids"])
    assert np.array_equal(batch.labels, arrays["labels"])
    losses = objective(folder, lisa)(batch)
    for ours, theirs in {"loss": "loss", "ce": "ce_loss", "bce": "mask_bce_loss", "dice": "mask_dice_loss"}.items():
        assert losses[ours].item() == pytest.approx(facts["losses"][theirs], abs=1e-5)
    losses["loss"].backward()
    found = {
        reference_name(lisa, ours.replace(".base_layer", "")): parameter.grad
        for ours, parameter in lisa.named_parameters()
        if parameter.grad is not None and not is_lora(ours)
    }
    for theirs, norm in facts["grad_l2_norms"].items():
        assert found[theirs].norm().item() == pytest.approx(norm, rel=1e-4)


# --- what is trained ---


@pytest.fixture(scope="module")
def encoded() -> tuple[Batch, torch.Tensor]:
    """One picture with one question, and its image embedding: the encoder is frozen, so it is asked once."""
    lisa = load(COMPACT)
    how = batcher(COMPACT, lisa)
    facts = json.loads((COMPACT / "train.json").read_text())["unseen_answers"]
    small = golden_examples(COMPACT, facts)[0]
    batch = how.join([how.prepare(replace(small, dialogues=small.dialogues[:1]), no_skip)])
    with torch.no_grad():
        return batch, lisa.embed_image(batch.pixels)


def losses_of(lisa: Lisa, encoded: tuple[Batch, torch.Tensor]) -> dict[str, torch.Tensor]:
    batch, embedding = encoded
    lisa.embed_image = lambda pixels: embedding.to(pixels.dtype)  # type: ignore[method-assign]
    return objective(COMPACT, lisa)(batch)


def test_one_step_changes_what_the_reference_trains_and_nothing_else(encoded: tuple[Batch, torch.Tensor]) -> None:
    lisa = load(COMPACT)
    trained = prepare_training(lisa, LoraOptions(dropout=0.0), quantised=False, checkpointing=False)
    training_mode(lisa, True)
    before = {name: tensor.detach().clone() for name, tensor in lisa.named_parameters()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    for _ in range(2):  # LoRA's A has a gradient once B is not zero
        losses_of(lisa, encoded)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in lisa.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed <= set(trained)
    groups = {
        "lora": {name for name in trained if is_lora(name)},
        "words": {"llama.embed_tokens.weight", "lm_head.weight"},
        "projector": {name for name in trained if name.startswith("seg_projector.")},
    }
    assert len(groups["lora"]) == 4 * 2 * 2  # layers, q and v, A and B
    assert set().union(*groups.values()) <= changed
    others = set(trained) - set().union(*groups.values())
    assert all(name.startswith("sam.mask_decoder.") for name in others)
    assert "sam.mask_decoder.mask_tokens.weight" in changed


def test_lora_goes_where_it_is_told() -> None:
    lisa = load(COMPACT)
    trained = prepare_training(lisa, LoraOptions(targets=("o_proj",)), quantised=False, checkpointing=False)
    assert {name.split(".")[4] for name in trained if is_lora(name)} == {"o_proj"}
    with pytest.raises(ConfigError, match=r"no layer 'colour'; the language model has .*q_proj"):
        prepare_training(load(COMPACT), LoraOptions(targets=("colour",)), quantised=False, checkpointing=False)


def test_checkpointing_changes_memory_and_not_gradients(encoded: tuple[Batch, torch.Tensor]) -> None:
    gradients = []
    for checkpointing in (False, True):
        lisa = load(COMPACT)
        torch.manual_seed(0)
        trained = prepare_training(lisa, LoraOptions(), quantised=False, checkpointing=checkpointing)
        training_mode(lisa, True)
        torch.manual_seed(1)
        losses_of(lisa, encoded)["loss"].backward()
        assert lisa.llama.layers[0].gradient_checkpointing is checkpointing
        gradients.append({name: p.grad for name, p in trained.items() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("precision", ["bf16", "nf4", "int8"])
def test_half_precision_and_quantised_weights_train(encoded: tuple[Batch, torch.Tensor], precision: str) -> None:
    """The frozen weights are small, what is trained is fp32, and its gradients are finite."""
    if precision in ("nf4", "int8"):
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'lisa_ros[quant]'")
    lisa = load(COMPACT, precision)
    trained = prepare_training(
        lisa, LoraOptions(dropout=0.0), quantised=precision in ("nf4", "int8"), checkpointing=True
    )
    training_mode(lisa, True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        losses = losses_of(lisa, encoded)
    losses["loss"].backward()
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    kind = "Linear4bit" if precision == "nf4" else "Linear8bitLt" if precision == "int8" else "Linear"
    assert type(lisa.llama.layers[0].self_attn.q_proj.base_layer).__name__ == kind
    assert abs(losses["loss"].item() - 5.463) < (0.2 if precision == "bf16" else 8.0)
    for name in ("llama.layers.0.self_attn.q_proj.lora_B.default.weight", "lm_head.weight"):
        assert torch.isfinite(trained[name].grad).all()
        assert trained[name].grad.abs().sum() > 0


def test_a_batch_without_masks_skips_the_image_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    lisa = load(COMPACT)
    monkeypatch.setattr(lisa, "embed_image", lambda pixels: pytest.fail("there is no mask to decode"))
    how = batcher(COMPACT, lisa)
    rgb = np.zeros((30, 40, 3), np.uint8)
    talk = Dialogue((Turn("What is it?", "A cup."), Turn("Why?", REASON)), np.zeros((0, 30, 40), np.uint8))
    losses = objective(COMPACT, lisa)(how.join([how.prepare(Example("x", rgb, (talk,)), no_skip)]))
    assert losses["bce"].item() == losses["dice"].item() == 0
    assert losses["loss"].item() == losses["ce"].item() > 0


# --- answers that do not fit ---


def with_turns(*turns: Turn) -> Example:
    count = sum((turn.answer or "").count("[SEG]") for turn in turns)
    dialogue = Dialogue(turns, np.stack([np.full((8, 8), number, np.uint8) for number in range(count)]))
    return Example("long.jpg", np.zeros((8, 8, 3), np.uint8), (dialogue,))


def test_an_answer_whose_seg_would_be_cut_is_named_and_left_out() -> None:
    how = batcher(COMPACT, load(COMPACT), max_tokens=120)
    with pytest.raises(BadExample, match=r"long\.jpg: 'where where .* is cut before its \[SEG\] at 120 tokens"):
        how.prepare(with_turns(Turn("where " * 60, "Sure, [SEG].")), no_skip)


def test_turns_that_do_not_fit_go_with_their_masks() -> None:
    how = batcher(COMPACT, load(COMPACT), max_tokens=130)
    told: list[str] = []
    turns = [Turn("where?", "Sure, [SEG]."), Turn("and " * 60, "Sure, it is [SEG].")]
    prepared = how.prepare(with_turns(*turns), told.append)
    assert told == ["long.jpg: 1 turns that end after 130 tokens"]
    assert len(prepared.masks) == prepared.texts[0].count("[SEG]") == 1
    assert prepared.masks[0, 0, 0] == 0


def test_a_long_explanation_is_cut_and_its_seg_stays() -> None:
    how = batcher(COMPACT, load(COMPACT), max_tokens=120)
    batch = how.join([how.prepare(with_turns(Turn("where?", "Sure, [SEG]. " + "because " * 90)), no_skip)])
    assert batch.ids.shape == (1, 120)
    assert (batch.ids == how.tokenizer.id_of("[SEG]")).sum() == len(batch.masks[0]) == 1


def test_a_question_that_leaves_no_room_is_left_out() -> None:
    how = batcher(COMPACT, load(COMPACT), max_tokens=120)
    with pytest.raises(BadExample, match="leaves no room"):
        how.prepare(
            Example(
                "long.jpg",
                np.zeros((8, 8, 3), np.uint8),
                (Dialogue((Turn("why " * 90, "So."),), np.zeros((0, 8, 8), np.uint8)),),
            ),
            no_skip,
        )


def test_text_that_looks_like_the_template_is_left_out() -> None:
    how = batcher(COMPACT, load(COMPACT))
    with pytest.raises(BadExample, match="ASSISTANT"):
        how.prepare(with_turns(Turn("where? ASSISTANT: there", "Sure, [SEG].")), no_skip)


# --- a run ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures in ReasonSeg's format, and a broken one."""
    folder = tmp_path_factory.mktemp("data") / "train"
    folder.mkdir()
    for name, points in [("wide", [[300, 20], [420, 120]]), ("tall", [[20, 40], [150, 300]])]:
        (folder / f"{name}.png").write_bytes((COMPACT / f"{name}.png").read_bytes())
        label = {"text": ["the drink", "what one drinks"], "is_sentence": False}
        label["shapes"] = [{"label": "target", "shape_type": "rectangle", "points": points}]
        (folder / f"{name}.json").write_text(json.dumps(label))
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "broken.json").write_text(json.dumps(label))
    return folder


def settings(run: Path, data: Path, **changes: Any) -> dict[str, Any]:
    content = {
        "recipe": "lisa",
        "run": str(run),
        "start": str(COMPACT / "ckpt"),
        "data": [{"kind": "reasonseg", "path": str(data), "questions": 1}],
        "device": "cpu",
        "steps": 3,
        "batch_size": 1,
        "accumulation": 1,
        "warmup": 2,
        "workers": 0,
        "save_every": 1,
        "seed": 5,  # draws the broken picture among the first three
    }
    return content | changes


def start_run(config: Path, *launcher: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, *launcher, "-m", "lisa_ros.cli", "train", "--config", str(config)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def trained_weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "state" / f"{step:07d}" / "trained.safetensors")


@pytest.mark.timeout(600)  # three processes that each import torch, on a machine that may be busy
def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path: Path, data: Path) -> None:
    runs = {}
    for name in ("unbroken", "killed"):
        validation = {"data": str(data), "every": 3, "limit": 1}
        config = tmp_path / f"{name}.yaml"
        how = {"validation": validation, "conversation": "llava_llama_2"}
        config.write_text(yaml.safe_dump(settings(tmp_path / name, data, **how)))
        runs[name] = start_run(config)
    try:
        until = time.monotonic() + limit(200)
        while not (tmp_path / "killed" / "state" / "0000001").is_dir():
            assert runs["killed"].poll() is None, runs["killed"].communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.02)
        runs["killed"].send_signal(signal.SIGKILL)
        runs["killed"].communicate()
        assert not (tmp_path / "killed" / "state" / "0000003").exists()
        again = start_run(tmp_path / "killed.yaml")
        told = again.communicate(timeout=limit(200))[0]
        assert again.returncode == 0, told
        whole = runs["unbroken"].communicate(timeout=limit(200))[0]
        assert runs["unbroken"].returncode == 0, whole
    finally:
        for run in runs.values():
            run.kill()
    assert "going on after step" in told
    assert "going on after step" not in whole
    assert "broken.png cannot be read" in whole
    expected, found = trained_weights(tmp_path / "unbroken", 3), trained_weights(tmp_path / "killed", 3)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    whole_run, resumed = (
        torch.load(tmp_path / name / "state" / "0000003" / "optimizer.bin", weights_only=True)["state"] for name in runs
    )
    assert len(whole_run) > 10
    assert whole_run.keys() == resumed.keys()
    for number, moments in whole_run.items():
        assert all(torch.equal(moments[name], resumed[number][name]) for name in moments)
    scores = [json.loads((tmp_path / name / "best" / "score.json").read_text()) for name in runs]
    assert scores[0] == scores[1]
    assert scores[0]["n"] == 1
    assert read_trained(tmp_path / "killed" / "best" / "trained.safetensors")[1]["conversation"] == "llava_llama_2"
    assert [folder.name for folder in (tmp_path / "killed" / "state").iterdir()] == ["0000003"]
    assert list((tmp_path / "killed" / "log").rglob("events*"))


@pytest.mark.timeout(600)
def test_two_processes_end_with_the_weights_of_one_that_takes_both_shares(tmp_path: Path, data: Path) -> None:
    """`accelerate launch`, on CPUs: two processes with a picture each, or one."""
    how: dict[str, Any] = {"steps": 2, "lora": {"dropout": 0.0}}
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--main_process_port", str(free_port())]
    runs = {}
    for name, accumulation, around in (("two", 1, launcher), ("one", 2, [])):
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings(tmp_path / name, data, accumulation=accumulation, **how)))
        runs[name] = start_run(config, *around)
    try:
        for run in runs.values():
            told = run.communicate(timeout=limit(400))[0]
            assert run.returncode == 0, told
    finally:
        for run in runs.values():
            run.kill()
    expected, found = trained_weights(tmp_path / "one", 2), trained_weights(tmp_path / "two", 2)
    assert expected.keys() == found.keys()
    assert all(torch.allclose(expected[name], found[name], atol=1e-6) for name in expected)
    facts = json.loads((tmp_path / "two" / "state" / "0000002" / "state.json").read_text())
    assert facts["processes"] == 2


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def lisa_merge(*words: str | Path) -> int:
    parser = ArgumentParser()
    merge_cli.add_arguments(parser)
    return merge_cli.main(parser.parse_args([str(word) for word in words]))


def test_a_4_bit_run_goes_on_and_is_merged(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """QLoRA: it is stopped after its first step, resumes, and its LoRA is folded into the whole weights."""
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'lisa_ros[quant]'")
    content = settings(tmp_path / "run", data, precision="nf4", steps=2)
    one_step = TrainingLoop._one_step

    def stops(loop: TrainingLoop, step: int, forward: Any) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return one_step(loop, step, forward)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingLoop, "_one_step", stops)
        with pytest.raises(KeyboardInterrupt):
            finetune.train(content)
    first = trained_weights(tmp_path / "run", 1)
    with caplog.at_level("INFO"):
        assert finetune.train(content) == 0
    assert "going on after step 1" in caplog.text
    assert "in nf4 on cpu" in caplog.text
    last = trained_weights(tmp_path / "run", 2)
    layer = "model.layers.1.self_attn.q_proj"
    assert not torch.equal(first["lm_head.weight"], last["lm_head.weight"])
    assert lisa_merge(tmp_path / "run", "--out", tmp_path / "merged") == 0
    merged = load_file(tmp_path / "merged" / "model-00001.safetensors")[f"{layer}.weight"]
    base = load_file(COMPACT / "ckpt" / "model.safetensors")[f"{layer}.weight"]
    down, up = (last[f"{layer}.lora_{side}.default.weight"] for side in "AB")
    assert up.abs().sum() > 0
    torch.testing.assert_close(merged, base + 2.0 * up @ down)
    Segmenter.from_checkpoint(tmp_path / "merged", device="cpu", precision="nf4")


def test_training_lowers_the_loss(encoded: tuple[Batch, torch.Tensor]) -> None:
    """A few steps on one batch, with the recipe's optimizer."""
    lisa = load(COMPACT)
    trained = prepare_training(lisa, LoraOptions(), quantised=False, checkpointing=False)
    training_mode(lisa, True)
    optimizer = torch.optim.AdamW(trained.values(), lr=3e-3, betas=(0.9, 0.95))
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = losses_of(lisa, encoded)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_run_that_diverges_stops_and_says_what_to_try(tmp_path: Path, data: Path) -> None:
    content = settings(tmp_path / "run", data, learning_rate=1e30, warmup=0, steps=5)
    with pytest.raises(TrainingDiverged, match=r"step \d: .*(nan|inf|finite).*lower the learning rate"):
        finetune.train(content)
    for snapshot in (tmp_path / "run" / "state").glob("*"):  # nothing that cannot be used is saved
        assert all(torch.isfinite(tensor).all() for tensor in load_file(snapshot / "trained.safetensors").values())


def test_a_run_with_other_settings_is_not_continued(tmp_path: Path, data: Path) -> None:
    finetune._claim_folder(FinetuneConfig.from_dict(settings(tmp_path, data)))
    finetune._claim_folder(FinetuneConfig.from_dict(settings(tmp_path, data, save_every=7)))
    with pytest.raises(ConfigError, match=r"other settings \(learning_rate, lora\)"):
        finetune._claim_folder(FinetuneConfig.from_dict(settings(tmp_path, data, learning_rate=1, lora={"rank": 4})))


def test_the_stream_gives_the_same_batch_for_the_same_number(data: Path) -> None:
    lisa = load(COMPACT)
    mixture = finetune.open_mixture([{"kind": "reasonseg", "path": str(data)}], Path())
    stream = finetune._Stream(mixture, batcher(COMPACT, lisa), 2, seed=5)
    random.seed(1)
    first = stream[7]
    random.seed(2)
    again = stream[7]
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.pixels, again.pixels)
    assert any(stream[n].ids.shape != first.ids.shape or not torch.equal(stream[n].ids, first.ids) for n in range(5))


# --- validation ---


def copied(folder: Path, data: Path, *names: str) -> Path:
    """A folder with these pictures of ``data``, and one where nothing is to be found (by name it is the first)."""
    folder.mkdir()
    for name in names:
        for suffix in (".png", ".json"):
            (folder / f"{name}{suffix}").write_bytes((data / f"{name}{suffix}").read_bytes())
    (folder / "absent.png").write_bytes((data / "wide.png").read_bytes())
    label = {"text": ["the parrot"], "is_sentence": False, "shapes": []}
    (folder / "absent.json").write_text(json.dumps(label))
    return folder


def made_ready(run: Path, data: Path, validation: Path) -> finetune.Finetuning:
    config = FinetuneConfig.from_dict(settings(run, data, validation={"data": str(validation)}))
    finetune._claim_folder(config)
    return finetune.Finetuning(config, finetune._accelerator(config))


def test_validation_scores_where_something_is_to_be_found_and_is_shared(tmp_path: Path, data: Path) -> None:
    run = made_ready(tmp_path / "run", data, copied(tmp_path / "some", data, "tall", "wide"))
    training_mode(run.lisa, False)
    whole = run._overlaps()
    assert len(whole) == 2  # not the one without a target
    shares = []
    for index in (0, 1):
        run.accelerator = SimpleNamespace(process_index=index, num_processes=2, autocast=nullcontext)
        shares.append(run._overlaps())
    assert [len(share) for share in shares] == [1, 1]
    assert [*shares[1], *shares[0]] == whole


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (None, r"on all 1 pictures there is nothing to be found, .*; add pictures with a target, or leave"),
        (1, r"on the first 1 \(validation\.limit\) pictures .*, raise validation\.limit, or leave validation out"),
    ],
)
def test_validation_without_anything_to_be_found_is_named(
    tmp_path: Path, data: Path, limit: int | None, told: str
) -> None:
    folder = copied(tmp_path / "none", data, *(["tall"] if limit else []))
    content = settings(tmp_path / "run", data, validation={"data": str(folder), "limit": limit})
    with pytest.raises(ConfigError, match=told):
        finetune.train(content)
    assert not (tmp_path / "run" / "state").exists()


def test_best_is_replaced_by_a_better_score_and_by_no_other(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_ready(tmp_path / "run", data, data)
    kept = []
    for step, found in ((1, 50), (2, 30), (3, 50), (4, 80)):
        monkeypatch.setattr(run, "_overlaps", lambda found=found: [Overlap(found, 100)])
        with torch.no_grad():
            run.trained["lm_head.weight"].fill_(step)
        assert run._validate(step)["gIoU"] == pytest.approx(found / 100, abs=1e-3)
        score = json.loads((tmp_path / "run" / "best" / "score.json").read_text())
        weights, metadata = read_trained(tmp_path / "run" / "best" / "trained.safetensors")
        assert int(metadata["step"]) == weights["lm_head.weight"][0, 0] == score["step"]
        kept.append((score["step"], round(score["gIoU"], 3)))
    assert kept == [(1, 0.5), (1, 0.5), (1, 0.5), (4, 0.8)]


# --- the configuration ---


def test_auto_is_fp32_where_a_gpu_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 only where it is asked for: it has not the range."""
    gpu = torch.device("cuda")
    config = FinetuneConfig(run="r", start="s", data=[])
    for supported, expected in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert finetune._precision(config, gpu).dtype == expected
        assert finetune._precision(replace(config, precision="fp16"), gpu).dtype == torch.float16


def test_the_example_configuration_is_valid(repository: Path) -> None:
    config = FinetuneConfig.from_dict(cli.read_config(repository / "config" / "train_lisa_7b.yaml"))
    defaults = FinetuneConfig(run=config.run, start=config.start, data=config.data, validation=config.validation)
    assert replace(config, precision="auto") == defaults


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"colour": 1}, "'colour' is not a setting; there are run"),
        ({"lora": {"size": 1}}, r"'lora\.size' is not a setting; there are rank"),
        ({"steps": "many"}, "steps is 'many'; it must be a whole number"),
        ({"steps": 0}, "steps is 0; it must be above 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a number"),
        ({"gradient_checkpointing": "maybe"}, "must be true or false"),
        ({"lora": {"targets": "q_proj"}}, r"lora\.targets is 'q_proj'; it must be a list"),
        ({"start": {"llava": "x"}}, r"'start\.sam' is missing"),
        ({"start": 3}, "start is 3"),
        ({"precision": "fp8"}, "precision 'fp8' is not known"),
        ({"device": "cuda:1"}, "accelerate gives each process its device"),
        ({"validation": {"every": 3}}, r"'validation\.data' is missing"),
        ({"data": "x"}, "data is 'x'; it must be a list"),
        ({"warmup": -1}, "warmup is -1; it is 0 or more steps"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        FinetuneConfig.from_dict(settings(Path("run"), Path("data")) | changes)


def test_an_unknown_recipe_or_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("recipe: soup")
    with pytest.raises(ConfigError, match="recipe 'soup' is not known; choose one of lisa"):
        cli.main(Namespace(config=tmp_path / "recipe.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "list.yaml").write_text("- a")
    (tmp_path / "latin.yaml").write_bytes("run: caf\xe9".encode("latin-1"))
    broken = {"broken": "cannot be read", "latin": "cannot be read", "none": "cannot be read"}
    for name, told in ({"list": "holds no settings"} | broken).items():
        with pytest.raises(ConfigError, match=rf"{name}\.yaml {told}"):
            cli.read_config(tmp_path / f"{name}.yaml")


def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "mark.yaml").write_text("recipe: lisa\nrun: here\n", "utf-8-sig")
    assert cli.read_config(tmp_path / "mark.yaml") == {"recipe": "lisa", "run": "here"}


def test_numbers_may_be_written_as_yaml_reads_them() -> None:
    config = FinetuneConfig.from_dict(settings(Path("run"), Path("data")) | yaml.safe_load("learning_rate: 3e-4"))
    assert config.learning_rate == 3e-4


def test_a_recipe_may_say_1e_4(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: 1e-4\nb: -2.5E+3\nc: 7\nd: x1e4")
    assert cli.read_config(tmp_path / "recipe.yaml") == {"a": 1e-4, "b": -2500.0, "c": 7, "d": "x1e4"}


# --- from LLaVA and SAM ---


def llava_and_sam(folder: Path) -> tuple[Path, Path]:
    """The compact golden taken apart into what the reference began with."""
    llava, sam = folder / "llava", folder / "sam.pth"
    llava.mkdir()
    tensors = load_file(COMPACT / "ckpt" / "model.safetensors")
    of_sam = {k.removeprefix("model.visual_model."): v for k, v in tensors.items() if k.startswith("model.visual_")}
    torch.save(of_sam, sam)
    own = {k: v for k, v in tensors.items() if "visual_model" not in k and "text_hidden_fcs" not in k}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        own[name] = own[name][:800].clone()
    save_file(own, llava / "model.safetensors")
    config = json.loads((COMPACT / "ckpt" / "config.json").read_text())
    for key in ("train_mask_decoder", "out_dim"):
        del config[key]
    (llava / "config.json").write_text(json.dumps(config | {"vocab_size": 800, "architectures": ["LlavaLlama"]}))
    (llava / "tokenizer.model").write_bytes((COMPACT / "ckpt" / "tokenizer.model").read_bytes())
    return llava, sam


def test_llava_and_sam_become_an_untrained_lisa(tmp_path: Path) -> None:
    llava, sam = llava_and_sam(tmp_path)
    compose(llava, sam, tmp_path / "start", seed=0)
    clip = read_clip(COMPACT / "clip-tiny")
    lisa, spec = load_lisa(tmp_path / "start", clip, Precision.pick("fp32", CPU), CPU)
    assert spec.out_dim == 64
    tokenizer = Tokenizer.from_folder(tmp_path / "start")
    assert [tokenizer.id_of(token) for token in ("[SEG]", "<im_start>", "<im_end>")] == [800, 801, 802]
    whole = load(COMPACT)
    for name, tensor in whole.named_parameters():
        ours = lisa.get_parameter(name)
        if name.startswith("seg_projector"):
            assert ours.abs().max() <= 1 / 96**0.5
        elif name in ("llama.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(ours[:800], tensor[:800])
            assert 0.01 < ours[800:].std() < 0.03
        else:
            assert torch.equal(ours, tensor), name


def test_a_run_from_llava_and_sam_is_merged_and_loads(tmp_path: Path, data: Path) -> None:
    llava, sam = llava_and_sam(tmp_path)
    start = {"llava": str(llava), "sam": str(sam)}
    tower = str(COMPACT / "clip-tiny")
    assert finetune.train(settings(tmp_path / "run", data, start=start, vision_tower=tower, steps=2)) == 0
    begun = load_file(next((tmp_path / "run" / "start").glob("*.safetensors")))
    trained = trained_weights(tmp_path / "run", 2)
    assert not torch.equal(trained["lm_head.weight"], begun["lm_head.weight"])
    assert lisa_merge(tmp_path / "run", "--out", tmp_path / "merged") == 0
    segmenter = Segmenter.from_checkpoint(tmp_path / "merged", device="cpu", precision="fp32")
    assert torch.equal(segmenter.lisa.lm_head.weight, trained["lm_head.weight"])
    rgb = np.asarray(Image.open(data / "tall.png").convert("RGB"))
    result = segment(segmenter, segmenter.encode(rgb), "the drink", max_new_tokens=3)
    assert len(result.answer_ids) <= 3


def test_what_is_not_llava_or_sam_is_named(tmp_path: Path) -> None:
    llava, sam = llava_and_sam(tmp_path)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth is not SAM"):
        compose(llava, tmp_path / "other.pth", tmp_path / "start", 0)
    config = json.loads((llava / "config.json").read_text())
    del config["mm_hidden_size"]
    (llava / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is not LLaVA"):
        compose(llava, sam, tmp_path / "start", 0)
