"""The loop that runs the node's callbacks."""

import gc

from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

from lisa_ros.ros.node import spin


def test_callbacks_that_were_run_leave_nothing_behind(ros):
    node = ros.create_node("spun")
    node.ended = Future()
    objects = []

    def count():
        objects.append(None)
        if len(objects) in (100, 1100):
            gc.collect()
            objects[-1] = len(gc.get_objects())
            if len(objects) == 1100:
                node.ended.set_result(True)

    node.create_timer(0.0005, count)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spin(executor, node)
    executor.shutdown()
    early, late = filter(None, objects)
    assert late - early < 100  # a thousand callbacks later


def test_the_loop_goes_on_after_a_fault_in_a_callback_of_rclpy(ros):
    node = ros.create_node("faulty")
    node.ended = Future()
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def fail():
        raise RuntimeError("no such client")

    executor.create_task(fail)
    node.create_timer(0.01, lambda: node.ended.set_result(True))
    spin(executor, node)
    executor.shutdown()
    assert node.ended.done()
