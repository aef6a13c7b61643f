"""The node with the engine ``grounded``: a server's faults cost commands, never the node."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine_speed import limit
from robot import scene, stamped

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation

pytest.importorskip("torch")
pytest.importorskip("openai", reason="needs the extra endpoint")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grounded"))

import servers
import tiny_models
from servers import Stub, answering, endless, refusing, silent

LOAD_S = 120.0  # to import torch and transformers, where the disk and the cores are somebody else's
FOUND = '{"present": true, "objects": [{"label": "red box", "bbox_2d": [100, 100, 500, 500]}]}'
ABSENT = '{"present": false, "objects": []}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a SAM 2.1; its locator is a server's."""
    made = tiny_models.recipe(tmp_path_factory.mktemp("engine"), {"kind": "endpoint"}, {"model": "cutter"})
    tiny_models.sam2(made / "cutter")
    return made


def options(url: str, *more: str) -> str:
    return f"['endpoint={url}', dialect=qwen3-vl, check=off{''.join(f', {one}' for one in more)}]"


@pytest.fixture(scope="module")
def stub() -> Iterator[Stub]:
    with Stub(answering(FOUND)) as made:
        yield made


@pytest.fixture(scope="module")
def client(launch, folder: Path, stub: Stub):
    client = launch(model=folder, device="cpu", options=options(stub.url), threads=1, timeout_s=60.0)
    client.ready(LOAD_S)
    return client


def ask(client):
    """The response of the service."""
    return client.call("the red box", stamped(client.node, scene()))


def test_a_command_gives_masks_with_phrases(client, stub: Stub) -> None:
    stub.chat = answering(FOUND)
    goal = client.goal("the red box", stamped(client.node, scene()))
    goal.reach(Segment.Feedback.STAGE_GENERATING)
    _, result = goal.result()
    assert result.status == Segmentation.SUCCESS, result.message
    assert [mask.phrase for mask in result.segmentation.masks] == ["red box"]


def test_what_the_model_does_not_see_is_not_found(client, stub: Stub) -> None:
    stub.chat = answering(ABSENT)
    _, result = client.goal("the bicycle", stamped(client.node, scene())).result()
    assert (result.status, list(result.segmentation.absent)) == (Segmentation.NOT_FOUND, ["the bicycle"])


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (401, "bad key", Segmentation.NOT_READY),
        (429, "slow down", Segmentation.BUSY),
        (503, "loading", Segmentation.BUSY),
        (400, "maximum context length is 10 tokens", Segmentation.INVALID_COMMAND),
        (400, "cannot decode image", Segmentation.INVALID_IMAGE),
        (500, "CUDA error", Segmentation.INTERNAL_ERROR),
    ],
)
def test_a_refusal_has_its_status_and_the_next_command_works(
    status: int, words: str, expected: int, client, stub: Stub
) -> None:
    stub.chat = refusing(status, words)
    result = ask(client)
    assert result.status == expected, result.message
    stub.chat = answering(FOUND)
    assert ask(client).status == Segmentation.SUCCESS


@pytest.mark.parametrize("chat", [silent, endless], ids=["silent", "endless"])
def test_a_cancel_reaches_the_server(chat, client, stub: Stub) -> None:
    stub.chat = chat
    stub.closed.clear()
    goal = client.goal("the red box", stamped(client.node, scene()))
    goal.reach(Segment.Feedback.STAGE_READING)
    goal.cancel()
    assert goal.result()[1].status == Segmentation.CANCELED
    assert stub.closed.wait(limit(5))
    stub.chat = answering(FOUND)
    assert ask(client).status == Segmentation.SUCCESS


def test_the_nodes_own_deadline_reaches_the_server(launch, folder: Path) -> None:
    with Stub(answering(FOUND)) as stub:
        client = launch(model=folder, device="cpu", options=options(stub.url), threads=1, timeout_s=1.0)
        client.ready(LOAD_S)
        stub.chat = silent
        stub.closed.clear()
        assert ask(client).status == Segmentation.TIMEOUT
        assert stub.closed.wait(limit(5))


def test_a_real_server_that_dies_and_comes_back(launch, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install -r requirements/test.txt")
    with servers.llama_server(tiny_models.qwen3_vl(tmp_path / "qwen"), tmp_path) as server:
        client = launch(model=folder, device="cpu", options=options(server.url, "max_objects=1"), threads=1)
        client.ready(LOAD_S)
        answered = (Segmentation.SUCCESS, Segmentation.NOT_FOUND)
        assert ask(client).status in answered
        server.kill()
        lost = ask(client)
        assert lost.status in (Segmentation.NOT_READY, Segmentation.INTERNAL_ERROR), lost.message
        assert "is the server on?" in ask(client).message
        server.start()
        assert ask(client).status in answered
