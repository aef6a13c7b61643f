"""Commands to answers: the queue, and the process that owns the engine. No ROS."""
