"""The extractive engine in the worker's process: proposals go in, a mask comes back once, with all its mentions."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from goldens import read_rgb
from machine_speed import limit
from tiny_elisa import ELISA

from lisa_ros.engine.api import Ask, Proposals
from lisa_ros.runtime.running import Running
from lisa_ros.runtime.transport import SharedMemory
from lisa_ros.runtime.worker import (
    Command,
    Done,
    Failed,
    LoadFailed,
    NewRegions,
    PartialText,
    Ready,
    Worker,
    WorkerSettings,
)

QUERY = "Output the mask. Where is the plate?"
RGB = read_rgb(ELISA / "images/image2.png")
LIMIT_S = limit(60.0)


@pytest.fixture(scope="module")
def worker() -> Iterator[tuple[Worker, SharedMemory, queue.Queue[Any]]]:
    transport, events = SharedMemory(RGB.size), queue.Queue[Any]()
    worker = Worker(WorkerSettings(str(ELISA), device="cpu", precision="fp32"), transport, events.put)
    worker.start()
    yield worker, transport, events
    worker.close()
    transport.close()


def until(events: queue.Queue[Any], *kinds: type) -> list[Any]:
    found = [events.get(timeout=LIMIT_S)]
    while not isinstance(found[-1], kinds):
        found.append(events.get(timeout=LIMIT_S))
    return found


def asked(worker: tuple[Worker, SharedMemory, queue.Queue[Any]], proposals: Proposals | None) -> list[Any]:
    process, transport, events = worker
    ask = Ask(QUERY, verbatim=True, proposals=proposals)
    process.send(Command("id", ask, transport.put(RGB)))
    return until(events, Done, Failed)


def test_a_mask_that_is_named_twice_crosses_once_and_has_both_mentions(
    worker: tuple[Worker, SharedMemory, queue.Queue[Any]],
) -> None:
    assert isinstance(until(worker[2], Ready, LoadFailed)[-1], Ready)
    with np.load(ELISA / "generate.npz") as file:
        embeddings = file["embeddings_2"]
    masks = np.zeros((4, *RGB.shape[:2]), bool)
    for number, mask in enumerate(masks):
        mask[2 * number : 2 * number + 9, 3:12] = True
    events = asked(worker, Proposals(masks=masks, embeddings=embeddings))
    done = events[-1]
    assert isinstance(done, Done)
    [at] = [number for number, event in enumerate(events) if isinstance(event, NewRegions)]
    [sent] = events[at].regions
    texts = [event.text for event in events[:at] if isinstance(event, PartialText)]
    assert texts[-1] == "The object is at [1]"
    assert (sent.mask.y, sent.mask.label, done.new, list(done.order)) == (6, 1, [], [0])
    running = Running(None, None, announced=[sent])  # type: ignore[arg-type]
    [region] = running.regions(done)
    assert [done.text[begin:end] for begin, end in region.spans] == ["[1]", "[1]"]


def test_a_command_without_proposals_fails_alone(worker: tuple[Worker, SharedMemory, queue.Queue[Any]]) -> None:
    failed = asked(worker, None)[-1]
    assert isinstance(failed, Failed)
    assert "give Ask.proposals" in str(failed.error)
