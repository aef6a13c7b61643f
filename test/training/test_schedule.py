"""Learning rates: warm-up, decay, and phases one after the other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lisa_ros.training.schedule import adamw, cosine, current_rate, linear


def rates(make, steps, factors=(1.0,)):
    """The learning rates of each group at each step."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "factor": f, "weight_decay": 0.0} for f in factors]
    optimizer = adamw(groups, beta2=0.95)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def phase(steps, lr, lr_end):
    return SimpleNamespace(steps=steps, lr=lr, lr_end=lr_end)


def test_a_linear_schedule_warms_up_and_falls():
    found = [one[0] for one in rates(lambda optimizer: linear(optimizer, 1.0, 1000, 100), 1000)]
    assert found[0] == 0.0  # transformers begins at 0: the first step moves nothing
    assert found[100] == max(found) == pytest.approx(1.0)
    assert found[550] == pytest.approx(0.5)
    assert 0 < found[-1] < 0.002


def test_a_cosine_goes_from_its_peak_to_its_end_and_groups_keep_their_factors():
    found = rates(lambda optimizer: cosine(optimizer, [phase(100, 2.0, 0.5)], 10), 100, factors=(1.0, 0.25))
    assert found[0][0] == pytest.approx(0.2)
    assert found[9][0] == pytest.approx(2.0)
    assert found[-1][0] == pytest.approx(0.5)
    assert all(quarter == pytest.approx(whole / 4) for whole, quarter in found)


def test_phases_follow_each_other_with_their_own_rates():
    phases = [phase(10, 1.0, 0.5), phase(20, 0.2, 0.1), phase(5, 3.0, 0.0)]
    found = [one[0] for one in rates(lambda optimizer: cosine(optimizer, phases, 1), 35)]
    assert found[9] == pytest.approx(0.5)
    assert 0.19 < found[10] <= 0.2
    assert found[29] == pytest.approx(0.1)
    assert 2.5 < found[30] <= 3.0
    assert found[34] == pytest.approx(0.0)


def test_a_schedule_that_is_loaded_goes_on_where_it_was():
    def made():
        optimizer = adamw([{"params": [torch.nn.Parameter(torch.zeros(1))], "factor": 0.5, "weight_decay": 0.0}], 0.98)
        return optimizer, cosine(optimizer, [phase(5, 1.0, 0.5), phase(5, 0.2, 0.1)], 2)

    optimizer, schedule = made()
    for _ in range(6):
        optimizer.step()
        schedule.step()
    again, resumed = made()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(3):
        for one, other in ((optimizer, schedule), (again, resumed)):
            one.step()
            other.step()
        assert current_rate(again) == current_rate(optimizer)
