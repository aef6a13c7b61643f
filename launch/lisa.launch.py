"""Start the node: ``ros2 launch lisa_ros lisa.launch.py image_topic:=/camera/color/image_raw``.

An argument that is left empty keeps the value of the parameter file, so that a robot's own file is not overruled by
defaults it never asked for. Nothing here reaches for the network: models are folders, made by ``lisa fetch``.
"""

import shlex

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription
from lisa_ros.engine.options import PRECISIONS
from lisa_ros.ros.parameters import existing_file

# Arguments with the names of node parameters, given to the node as strings, never as YAML.
PARAMETERS = ["model", "vision_tower", "conversation", "device", "precision", "image_transport"]

ARGUMENTS = [
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="folder, URL or package.module:callable; empty: params_file's, there the bundled demo model",
    ),
    DeclareLaunchArgument(
        "options",
        default_value="",
        description="options of the engine, as in options:='family=lisa conversation=v1'; empty: params_file's",
    ),
    DeclareLaunchArgument(
        "vision_tower", default_value="", description="LISA: folder of the CLIP tower; empty: what the checkpoint names"
    ),
    DeclareLaunchArgument(
        "conversation", default_value="", description="LISA: conversation template; empty: the checkpoint's"
    ),
    DeclareLaunchArgument(
        "device", default_value="", description="auto, cpu, cuda or cuda:1, ...; empty: params_file's, there auto"
    ),
    DeclareLaunchArgument(
        "precision",
        default_value="",
        choices=["", *PRECISIONS],
        description="number format of the model; empty: params_file's, there auto",
    ),
    DeclareLaunchArgument("image_topic", default_value="/camera/image_raw", description="colour images to look at"),
    DeclareLaunchArgument(
        "camera_info_topic", default_value="/camera/camera_info", description="their calibration, passed on with masks"
    ),
    DeclareLaunchArgument(
        "depth_topic", default_value="/camera/depth", description="depth aligned to the images, for results in metres"
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="message type on image_topic: Image or CompressedImage; empty: params_file's, there raw",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=PathJoinSubstitution([FindPackageShare("lisa_ros"), "config", "lisa.yaml"]),
        description="YAML file with the node's parameters",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        choices=["", "true", "false"],
        description="configure and activate the node, else a lifecycle manager does; empty: params_file's, there true",
    ),
    DeclareLaunchArgument(
        "console", default_value="false", choices=["true", "false"], description="start the web console too"
    ),
    DeclareLaunchArgument("console_host", default_value="127.0.0.1", description="address that the console listens on"),
    DeclareLaunchArgument("console_port", default_value="8080", description="TCP port of the console"),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
    DeclareLaunchArgument("name", default_value="lisa", description="name of the node, the ~ of its topics"),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=["true", "false"], description="take the time from /clock"
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="least severe messages that are shown",
    ),
]


def start_node(context: LaunchContext) -> list[Node]:
    """The node with the arguments that were given on top of the parameter file. Raises ConfigError without the file."""
    given = {name: LaunchConfiguration(name) for name in PARAMETERS if LaunchConfiguration(name).perform(context)}
    overrides: dict[str, object] = {name: ParameterValue(value, value_type=str) for name, value in given.items()}
    if options := LaunchConfiguration("options").perform(context):
        overrides["options"] = shlex.split(options)
    if LaunchConfiguration("autostart").perform(context):
        overrides["autostart"] = ParameterValue(LaunchConfiguration("autostart"), value_type=bool)
    overrides["use_sim_time"] = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    return [
        Node(
            package="lisa_ros",
            executable="lisa_node",
            namespace=LaunchConfiguration("namespace"),
            name=LaunchConfiguration("name"),
            parameters=[existing_file(LaunchConfiguration("params_file").perform(context)), overrides],
            remappings=[
                ("image", LaunchConfiguration("image_topic")),
                ("camera_info", LaunchConfiguration("camera_info_topic")),
                ("depth", LaunchConfiguration("depth_topic")),
            ],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            additional_env={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
            output="screen",
            emulate_tty=True,
        )
    ]


def start_console(context: LaunchContext) -> list[Node]:
    """The web console, where it is wanted: a process of its own (docs/console.md)."""
    if LaunchConfiguration("console").perform(context) != "true":
        return []
    names = [LaunchConfiguration(name).perform(context).strip("/") for name in ("namespace", "name")]
    transport = LaunchConfiguration("image_transport").perform(context) or "raw"
    return [
        Node(
            package="lisa_ros",
            executable="console",
            namespace=LaunchConfiguration("namespace"),
            name="lisa_console",
            parameters=[
                {
                    "node": "/" + "/".join(filter(None, names)),
                    "image_transport": transport,
                    "host": ParameterValue(LaunchConfiguration("console_host"), value_type=str),
                    "port": ParameterValue(LaunchConfiguration("console_port"), value_type=int),
                }
            ],
            remappings=[("image", LaunchConfiguration("image_topic"))],
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start_node), OpaqueFunction(function=start_console)])
