"""Waiting for a server that others use too."""

import pytest

from lisa_ros.engine import patience
from lisa_ros.errors import Busy, NotReady


def test_what_is_busy_is_asked_again_and_other_errors_are_raised(monkeypatch):
    monkeypatch.setattr(patience, "BUSY_S", 0.0)
    replies = [Busy("full"), Busy("full"), "answer", NotReady("gone"), "never asked"]

    def work():
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    assert patience.patiently(work) == "answer"
    with pytest.raises(NotReady, match="gone"):
        patience.patiently(work)
    assert replies == ["never asked"]
