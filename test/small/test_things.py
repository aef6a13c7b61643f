"""Things told apart in a map of classes."""

import numpy as np
import pytest

from lisa_small.network.things import SMALLEST, Thing, core, tell_apart
from lisa_small.network.tower import SharedTower


def test_what_hangs_together_is_one_thing():
    labels = np.zeros((12, 12), np.int64)
    labels[1:4, 1:4] = labels[8:11, 8:11] = labels[1:4, 8:11] = 5
    labels[8:11, 1:4] = 2
    assert tell_apart(labels) == [Thing(2, 9, 2), Thing(5, 2, 2), Thing(5, 2, 9), Thing(5, 9, 9)]
    labels[1:4, 4:8] = 5
    assert [thing.label for thing in tell_apart(labels)] == [2, 5, 5], "alike and touching: one"


def test_specks_are_no_things():
    labels = np.zeros((12, 12), np.int64)
    labels[:5, :6] = 1
    labels[8, : SMALLEST - 1] = 2  # too small for anything
    labels[10, 8:11] = 1  # a tenth of the largest of its class
    assert [thing.label for thing in tell_apart(labels)] == [1]
    assert tell_apart(np.zeros((4, 4), np.int64)) == []


def test_the_core_of_a_ring_is_on_the_ring():
    ring = np.ones((9, 9), bool)
    ring[1:8, 1:8] = False
    assert ring[core(ring)]
    assert core(np.ones((3, 5), bool)) == (1, 2)


def test_a_tower_without_classes_tells_nothing_apart():
    with pytest.raises(ValueError, match="recognises none"):
        SharedTower(4, 2, 4, 8, things=True)
