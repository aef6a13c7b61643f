"""Settings of a process that runs a model: set before torch reads them, and never over a user's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from whole_answer import segment

from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.lisa.threads import one_thread, wants_one_thread

GOLDEN = Path(__file__).parent / "golden"

# Prints the spin count that is set at the moment when torch begins to be imported.
WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
"""
RUN_VERB = "from lisa_ros.cli import main\nmain(sys.argv[1:])\n"
LOAD_IN_WORKER = "from lisa_ros.runtime import worker_process\nworker_process.load_engine()\n"


def spin_count(code: str, *arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "LD_PRELOAD")}
    run = subprocess.run(
        [sys.executable, "-c", WATCH + code, *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("torch")]
    assert lines, run.stdout + run.stderr
    return lines[0]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("train") / "train.yaml"
    file.write_text("recipe: lisa\n")
    return str(file)


def test_waiting_threads_sleep_soon_in_every_process_that_loads_torch(recipe: str) -> None:
    assert spin_count(RUN_VERB, "train", "--config", recipe) == "torch 1000 None"
    assert spin_count(RUN_VERB, "segment", str(GOLDEN / "wide.png"), "the cup") == "torch 1000 None"
    assert spin_count(RUN_VERB, "merge", "--help") == "torch 1000 None"
    assert spin_count(LOAD_IN_WORKER) == "torch 1000 None"


def test_a_users_own_setting_stays(recipe: str) -> None:
    assert spin_count(RUN_VERB, "train", "--config", recipe, GOMP_SPINCOUNT="7") == "torch 7 None"
    assert spin_count(LOAD_IN_WORKER, OMP_WAIT_POLICY="ACTIVE") == "torch None ACTIVE"


def test_a_small_model_wants_one_thread_unless_the_user_set_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert wants_one_thread(192, cpu)
    assert not wants_one_thread(4096, cpu)
    assert not wants_one_thread(192, torch.device("cuda"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert not wants_one_thread(192, cpu)


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread(False):
            assert torch.get_num_threads() == 3
        with one_thread(True):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_small_model_reads_on_one_thread_and_encodes_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    segmenter = Segmenter.from_checkpoint(GOLDEN / "ckpt", device="cpu", precision="fp32")
    threads: dict[str, set[int]] = {"read": set(), "embed_image": set(), "decode_masks": set()}
    for name, numbers in threads.items():
        original = getattr(segmenter.lisa, name)

        def counted(*arguments: object, original: object = original, numbers: set[int] = numbers) -> object:
            numbers.add(torch.get_num_threads())
            return original(*arguments)

        monkeypatch.setattr(segmenter.lisa, name, counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        wide = np.asarray(Image.open(GOLDEN / "wide.png").convert("RGB"))
        segment(
            segmenter, segmenter.encode(wide), "Where is the drink? Please output segmentation mask.", verbatim=True
        )
    finally:
        torch.set_num_threads(before)
    assert threads == {"read": {1}, "embed_image": {2}, "decode_masks": {1}}
