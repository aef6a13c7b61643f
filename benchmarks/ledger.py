"""Who asked what and what came of it: every command is answered exactly once, with a status that fits its moment."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from lisa_ros.runtime.status import Status

USUAL = frozenset({Status.SUCCESS, Status.NOT_FOUND, Status.BUSY, Status.TIMEOUT, Status.CANCELED})


@dataclass
class Entry:
    """One command. answers: (time, status, message) at the endpoint that it went in by; results: the same on ~/result.

    Times are of time.monotonic, which all processes of a machine share.
    """

    command: str
    endpoint: str
    asked: float
    answers: list[tuple[float, Status, str]] = field(default_factory=list)
    results: list[tuple[float, Status, str]] = field(default_factory=list)
    client_died: bool = False

    @property
    def is_open(self) -> bool:
        """Whether an answer is still owed: at the endpoint where somebody waits, and on ~/result in any case."""
        return not self.results or not (self.answers or self.client_died)


@dataclass(frozen=True)
class Window:
    """A time in which further statuses are right: from a fault to the node's recovery."""

    begin: float
    end: float
    allowed: frozenset[Status]


class Ledger:
    """Each command is sent once, so its text is its key. Any thread may write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._early: dict[str, list[tuple[float, Status, str]]] = {}  # on ~/result before its client reported it
        self.windows: list[Window] = []

    def asked(self, command: str, endpoint: str, when: float) -> None:
        with self._lock:
            assert command not in self._entries, f"{command!r} was sent before"
            self._entries[command] = Entry(command, endpoint, when, results=self._early.pop(command, []))

    def answered(self, command: str, when: float, status: int, message: str) -> None:
        """At the endpoint."""
        with self._lock:
            self._entries[command].answers.append((when, Status(status), message))

    def heard(self, command: str, when: float, status: int, message: str) -> None:
        """On ~/result."""
        with self._lock:
            entry = self._entries.get(command)
            results = entry.results if entry is not None else self._early.setdefault(command, [])
            results.append((when, Status(status), message))

    def client_died(self, command: str) -> None:
        """Nobody waits at the endpoint of this command any more."""
        with self._lock:
            self._entries[command].client_died = True

    def open(self, before: float = float("inf")) -> list[Entry]:
        """Commands asked before that time that are owed an answer."""
        with self._lock:
            return [entry for entry in self._entries.values() if entry.asked < before and entry.is_open]

    def between(self, begin: float, end: float) -> list[Entry]:
        """Commands asked in that time."""
        with self._lock:
            return [entry for entry in self._entries.values() if begin <= entry.asked < end]

    def faults(self, entries: list[Entry]) -> list[str]:
        """What is wrong with these commands, in words; empty where each was answered once and rightly."""
        with self._lock:
            return [text for entry in entries for text in self._faults_of(entry)]

    def statuses(self, entries: list[Entry]) -> dict[str, int]:
        """How many of these commands got which status."""
        with self._lock:
            counts = Counter(entry.results[0][1].name for entry in entries if entry.results)
        return dict(counts.most_common())

    def _faults_of(self, entry: Entry) -> list[str]:
        name, found = f"{entry.command!r} ({entry.endpoint})", []
        if entry.is_open:
            where = " at the endpoint" if entry.results else " on ~/result" if entry.answers else ""
            found.append(f"lost: {name} has no answer{where}")
        for place, answers in (("at the endpoint", entry.answers), ("on ~/result", entry.results)):
            if len(answers) > 1:
                found.append(f"twice: {name} was answered {len(answers)} times {place}")
        given = {status for _, status, _ in entry.answers + entry.results}
        if len(given) > 1:
            found.append(f"differs: {name} was answered {sorted(status.name for status in given)}")
        for when, status, message in entry.results or entry.answers:
            if status not in USUAL | self._allowed(entry.asked, when):
                found.append(f"wrong status: {name} was answered {status.name}: {message}")
        return found

    def _allowed(self, asked: float, answered: float) -> frozenset[Status]:
        """Further statuses that are right for a command that was open in this time."""
        return frozenset().union(*(w.allowed for w in self.windows if w.begin <= answered and asked <= w.end))
