"""Commands as people speak, each with its true targets and its answer, made up for a rendered scene.

Targets are always ALL objects that fit. A command that one could argue about is not made: a phrase of the world table
lists every class that fits and every class that arguably fits, and a place or a size counts only with a clear margin.

``requests``, ``places``, ``several``, ``refusals`` and ``follow_ups`` have a function for each kind of command;
``speaker`` has what they share; ``conversations`` draws the kinds.
"""

from lisa_small.scenes.commands.conversations import KINDS, conversations_by, conversations_for
from lisa_small.scenes.commands.sentences import sentences
from lisa_small.scenes.commands.speaker import Speaker, contract
from lisa_small.scenes.commands.targets import NamedThing, named_things

__all__ = [
    "KINDS",
    "NamedThing",
    "Speaker",
    "contract",
    "conversations_by",
    "conversations_for",
    "named_things",
    "sentences",
]
