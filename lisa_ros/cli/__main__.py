"""``python -m lisa_ros.cli``: the ``lisa`` command, where no script is installed."""

import sys

from lisa_ros.cli import main

if __name__ == "__main__":
    sys.exit(main())
