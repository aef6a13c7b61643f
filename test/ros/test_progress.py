"""~/progress: a goal of one client is seen by everybody."""

import itertools
import subprocess
import sys

from machine_speed import limit
from robot import scene, stamped

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation

LISTENER = """
import sys, time, rclpy
from rclpy.qos import QoSProfile
from lisa_ros.msg import Progress, Segmentation
rclpy.init()
node = rclpy.create_node("somebody_else")
heard, ended = [], []
node.create_subscription(Progress, sys.argv[1] + "/progress", heard.append, QoSProfile(depth=100))
node.create_subscription(Segmentation, sys.argv[1] + "/result", ended.append, QoSProfile(depth=100))
while not (node.count_publishers(sys.argv[1] + "/progress") and node.count_publishers(sys.argv[1] + "/result")):
    rclpy.spin_once(node, timeout_sec=0.05)
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and not any(r.command == "the slow box twice" for r in ended):
    rclpy.spin_once(node, timeout_sec=0.05)
for p in heard:
    print(p.request_id, p.source, p.stage, p.masks, p.command, "|", p.partial_answer, flush=True)
rclpy.shutdown()
"""


def test_a_goal_of_one_client_is_seen_by_another_process(client):
    topic = f"{client.lisa.name}/progress"
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER, client.lisa.name, str(limit(60))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        client.wait(
            lambda: any(i.node_name == "somebody_else" for i in client.node.get_subscriptions_info_by_topic(topic)),
            "the other process's subscription",
        )
        goal = client.goal("the slow box twice", stamped(client.node, scene()))
        assert goal.result()[1].status == Segmentation.SUCCESS
        lines = process.communicate(timeout=limit(90))[0].splitlines()
    finally:
        process.kill()
        process.wait()
    fields = [line.split(" ", 4) for line in lines if "the slow box twice" in line]
    assert fields and {f[0] for f in fields} == {goal.request_id} and {f[1] for f in fields} == {"action"}
    stages = [int(f[2]) for f in fields]
    assert {Segment.Feedback.STAGE_ENCODING, Segment.Feedback.STAGE_GENERATING} <= set(stages)
    assert [int(f[3]) for f in fields] == sorted(int(f[3]) for f in fields) and int(fields[-1][3]) == 2
    texts = [f[4].split("| ", 1)[1] for f in fields]
    assert any(texts) and all(new.startswith(old) for old, new in itertools.pairwise(texts))
