"""What is practised: phrases that were answered wrongly of late are asked more often than those that are known."""

from __future__ import annotations

from collections.abc import Iterable


class Practice:
    """How often each phrase was answered wrongly of late, and how often it is asked for that.

    What something is for is learned apart from refusing it, so that a phrase counts apart where nothing fits it.
    The idea, samples by their loss: Katharopoulos and Fleuret, "Not All Samples Are Created Equal" (2018).
    """

    MEMORY = 0.5
    """What one answer leaves of the errors before it: a phrase is asked seldom."""

    def __init__(self, known: float):
        """known: in [0, 1], how often a phrase that was never wrong is asked, beside one that always was."""
        self.known = known
        self.errors: dict[tuple[str, bool], float] = {}

    def weight(self, phrase: str, there: bool) -> float:
        """From ``known`` to 1, for a phrase that has not been asked yet. there: whether something fits it."""
        return self.known + (1 - self.known) * self.errors.get((phrase, there), 1.0)

    def note(self, phrase: str, there: bool, wrong: bool) -> None:
        """``phrase`` was asked and answered. wrong: for whatever reason, be it that a thing was not seen."""
        before = self.errors.get((phrase, there), 1.0)
        self.errors[phrase, there] = self.MEMORY * before + (1 - self.MEMORY) * wrong

    def state(self) -> list[tuple[str, bool, float]]:
        """What a resumed run needs."""
        return [(*key, error) for key, error in self.errors.items()]

    def resume(self, state: Iterable[tuple[str, bool, float]]) -> None:
        """Restore what :meth:`state` returned."""
        self.errors = {(phrase, there): error for phrase, there, error in state}
