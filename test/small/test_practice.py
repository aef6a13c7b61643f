"""What was answered wrongly of late is asked more often."""

import pytest

from lisa_ros.errors import ConfigError
from lisa_small.training.language import LanguageConfig
from lisa_small.training.practice import Practice


def test_a_phrase_is_asked_less_with_every_right_answer_and_more_after_a_wrong_one():
    practice = Practice(known=0.1)
    weights = [practice.weight("tighten a screw", True)]
    for wrong in (False, False, False, True):
        practice.note("tighten a screw", True, wrong)
        weights.append(practice.weight("tighten a screw", True))
    assert weights == pytest.approx([1.0, 0.55, 0.325, 0.2125, 0.60625])
    assert practice.weight("tighten a screw", False) == practice.weight("never asked", True) == 1.0


def test_it_goes_on_from_its_state():
    practice, later = Practice(0.2), Practice(0.2)
    for number in range(50):
        practice.note(f"phrase {number % 7}", number % 3 > 0, number % 2 > 0)
    later.resume(practice.state())
    assert later.errors == practice.errors


@pytest.mark.parametrize("known", [-0.1, 1.5])
def test_a_share_that_is_none_is_named(known):
    with pytest.raises(ConfigError, match="known"):
        LanguageConfig(steps=1, known=known)
