"""The tests' own waiting: what hangs fails, after the limit."""

import time

import pytest
from robot import scene, stamped, wait_for


def test_a_condition_that_never_holds_fails_and_is_named():
    begun = time.monotonic()
    with pytest.raises(AssertionError, match="no answer within"):
        wait_for(lambda: False, "answer", 0.1)
    assert time.monotonic() - begun >= 0.1


def test_a_node_that_hangs_fails_the_wait_for_its_answer(client):
    answer = client.call_async("slow box", stamped(client.node, scene()))
    with pytest.raises(AssertionError, match="no answer of the node within"):
        client.wait(lambda: answer.done() and answer.result().status == 255, "answer of the node", 0.1)
    assert client.done(answer).status == 0
