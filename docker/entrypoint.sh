#!/usr/bin/env bash
# Run a command with ROS, the virtual environment and the workspace in its environment.
set -eo pipefail
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /opt/lisa_ws/venv/bin/activate
source /opt/lisa_ws/install/setup.bash
exec "$@"
