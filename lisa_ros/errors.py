"""What can go wrong, as types. A message has the invalid value and how to fix it.

``lisa_ros.runtime.status`` maps these to the status codes of the action, the service and the topic.
"""


class LisaError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LisaError):
    """A parameter or an option has a value that cannot be used."""


class CheckpointError(LisaError):
    """A model folder is missing, damaged or of another architecture. The message lists the keys."""


class ImageError(LisaError):
    """An image cannot be used: encoding, size or amount of data."""


class CommandError(LisaError):
    """A command cannot be used: empty, too long, or not text."""


class DeviceError(LisaError):
    """The device does not exist or does not support the precision."""


class OutOfMemory(DeviceError):
    """The device (or the host) ran out of memory while loading or answering."""


class NumericalError(LisaError):
    """The model computed NaN or infinite numbers: half precision overflowed, or its weights are broken."""


class Cancelled(LisaError):
    """The caller asked to stop before the answer was complete."""


class TrainingDiverged(LisaError):
    """The loss or a weight of a training run is no longer a finite number."""
