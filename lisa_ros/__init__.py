"""lisa_ros: say what you mean, get a mask.

LISA (a multimodal language model with a ``[SEG]`` token) as a library, a command line and a ROS 2 node.

This module runs at every ``import lisa_ros.msg`` too, in processes that have neither torch nor a model: nothing heavy
belongs here.
"""

from pkgutil import extend_path

# The built ROS interfaces (lisa_ros.msg, .srv, .action) live in another folder than a source checkout; found together.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
