"""The types of errors. A message has the invalid value and how to fix it.

``lisa_ros.runtime.status`` maps them to the status codes of the action, the service and the topic.
"""


class LisaError(Exception):
    """Base class of the errors of this package."""


class ConfigError(LisaError):
    """A parameter or an option has a value that cannot be used."""


class CheckpointError(LisaError):
    """A model folder is missing, damaged or of another architecture. The message lists the tensors in question."""


class ImageError(LisaError):
    """An image cannot be used: encoding, size or amount of data."""


class CommandError(LisaError):
    """A command cannot be used: it is empty, too long or not text, or the engine does not support a part of it."""


class DeviceError(LisaError):
    """The device does not exist or does not support the precision."""


class OutOfMemory(DeviceError):
    """The device (or the host) ran out of memory while loading or answering."""


class NumericalError(LisaError):
    """The model computed NaN or infinite numbers: the precision overflows, or the weights are damaged."""


class Cancelled(LisaError):
    """The caller asked to stop before the answer was complete."""


class TrainingDiverged(LisaError):
    """The loss or a weight of a training run is no longer a finite number."""


class NotReady(LisaError):
    """There is nothing that could answer: the model is loading or failed to load, or its server does not answer."""


class Busy(LisaError):
    """The queue, of this node or of a server, is full."""


class TimedOut(LisaError):
    """The time given to a command ran out."""
