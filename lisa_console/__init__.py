"""The web console: a person speaks to the robot in a browser. A process and a ROS node of its own (docs/console.md)."""
