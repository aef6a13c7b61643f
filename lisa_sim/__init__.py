"""A simulated robot cell: a scene of lisa_small with physics, a tray, a camera and a robot that picks.

``lisa_ros`` and ``lisa_small`` do not import this package.
"""

import lisa_small.scenes  # noqa: F401 - chooses the OpenGL of MuJoCo before MuJoCo is imported
