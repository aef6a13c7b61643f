"""The node's parameters: one dataclass is the source, ROS descriptors, config/lisa.yaml and the docs are views of it.

``python -m lisa_ros.ros.parameters yaml`` writes the text of config/lisa.yaml, ``... table`` the one of the docs.
"""

from __future__ import annotations

import difflib
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lisa_ros.engine.options import PRECISIONS, parse_options
from lisa_ros.engine.registry import is_callable_name, is_url
from lisa_ros.errors import ConfigError

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

Value = bool | int | float | str | tuple[str, ...]
NOT_LIVE = "read-only once the node is configured"
CAMERA = re.compile(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*")
TOPIC = re.compile(r"(~/|/)?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", re.ASCII)
TRACKER = "lisa_ros.perception.tracking:FlowTracker"


def _parameter(
    default: Any,
    description: str,
    *,
    between: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    fixed: bool = False,
) -> Any:
    """A field. between: smallest and largest value. live: may change while the node runs. fixed: set at its start."""
    return field(
        default=default,
        metadata={"description": description, "between": between, "choices": choices, "live": live, "fixed": fixed},
    )


@dataclass(frozen=True)
class Parameters:
    """Values that were checked. Raises ConfigError for one that cannot be used."""

    model: str = _parameter(
        "",
        "folder of a model; or, at the node's start only, URL of a server or package.module:callable that makes an "
        "engine; empty: the bundled demo model",
    )
    options: tuple[str, ...] = _parameter(
        ("",), "options of the engine as name=value, for example [family=lisa]; the engine names the ones it knows"
    )
    vision_tower: str = _parameter(
        "", "LISA: folder of the CLIP tower, or hub id of one in the local cache; empty: what the checkpoint names"
    )
    conversation: str = _parameter("", "LISA: conversation template; empty: the checkpoint's")
    proposals: tuple[str, ...] = _parameter(
        ("model",),
        "masks that the engines nearest, llm-seg and elisa choose from: model (its own), sam (SAM's, of a grid of "
        "points), or topics of another node: a labels image (mono8, mono16, 32SC1) with the stamp of the camera image, "
        "then, if it has names for them, a vision_msgs/Detection2DArray",
    )
    device: str = _parameter("auto", "auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")
    precision: str = _parameter(
        "auto",
        "number format of the model; auto: bf16 on a GPU, or fp16 where it has no bf16, fp32 on a CPU",
        choices=PRECISIONS,
    )
    threads: int = _parameter(0, "CPU threads of the model; 0: torch's default", between=(0, 1024))
    image_transport: str = _parameter(
        "raw",
        "type of the messages on image: sensor_msgs/Image or sensor_msgs/CompressedImage (JPEG or PNG)",
        choices=("raw", "compressed"),
    )
    max_image_age_s: float = _parameter(
        2.0,
        "[s] maximum age of a camera frame; with an older one a command is answered NO_IMAGE",
        between=(0.01, 86400.0),
        live=True,
    )
    max_image_pixels: int = _parameter(
        50_000_000,
        "[pixels] maximum size of an image; larger ones are answered INVALID_IMAGE",
        between=(64, 1_000_000_000),
    )
    max_command_length: int = _parameter(
        # At most 10,000: a command is written to the worker's pipe at once, also while nobody reads there; longer ones
        # than the pipe holds would stop the node until somebody does.
        2000,
        "[characters] maximum length of a command or target; longer ones are answered INVALID_COMMAND",
        between=(1, 10_000),
        live=True,
    )
    max_new_tokens: int = _parameter(
        512, "[tokens] maximum length of an answer; 16 more for each target", between=(1, 16384), live=True
    )
    timeout_s: float = _parameter(
        60.0,
        "[s] from receiving a command to its TIMEOUT, where the caller gives no limit",
        between=(0.01, 86400.0),
        live=True,
    )
    queue_size: int = _parameter(
        4, "maximum number of waiting commands; one more is answered BUSY", between=(0, 1000), live=True
    )
    command_session: str = _parameter(
        "", "session of the commands on ~/command, for follow-up questions; empty: no history", live=True
    )
    early_mask: bool = _parameter(
        False,
        "publish ~/mask, ~/labels and ~/camera_info with every new mask, before the answer is complete; the last "
        "message of a stamp is the complete one",
        live=True,
    )
    min_score: float = _parameter(
        0.0,
        "masks with a lower score are left out; an answer that had no others is NOT_FOUND and says so",
        between=(0.0, 1.0),
        live=True,
    )
    use_depth: bool = _parameter(True, "measure every mask in metres, where depth and camera_info are published")
    depth_slop_s: float = _parameter(
        0.02,
        "[s] maximum difference between the stamps of image and depth",
        between=(0.0, 10.0),
        live=True,
    )
    target_frame: str = _parameter(
        "",
        "frame of ~/grasps, with z up, such as the robot's base; through tf2, where tf2_ros is installed; empty: the "
        "image's optical frame",
        live=True,
    )
    object_frames: bool = _parameter(
        False,
        "broadcast every object of an answer as the frame object_LABEL on /tf, where tf2_ros is installed",
        live=True,
    )
    gripper_opening_m: float = _parameter(
        0.08, "[m] largest distance between the fingers, for ~/grasps", between=(0.001, 1.0), live=True
    )
    organized_points: bool = _parameter(
        False,
        "~/points has the image's rows and columns, NaN outside the masks; false: only the masks' points",
        live=True,
    )
    overlay_opacity: float = _parameter(
        0.5, "opacity of the masks on ~/overlay; 0 invisible, 1 opaque", between=(0.0, 1.0), live=True
    )
    use_tracking: bool = _parameter(
        True, "follow the masks of a result on ~/tracked, while it has a subscriber", live=True
    )
    redetect_period_s: float = _parameter(
        2.0,
        "[s] minimum time between re-detections of uncertain targets; 0 disables them",
        between=(0.0, 3600.0),
        live=True,
    )
    search_s: float = _parameter(
        10.0,
        "[s] how long lost targets are searched before following ends (FlowTracker searches 5 s, re-detection longer)",
        between=(0.0, 86400.0),
        live=True,
    )
    tracker: str = _parameter(
        TRACKER,
        "module:callable that makes the tracker (lisa_ros.perception.tracking.Tracker), for example the experimental "
        "lisa_ros.runtime.tracker:sam2_video; set at the node's start only",
        fixed=True,
    )
    tracker_options: tuple[str, ...] = _parameter(
        ("",),
        "options of the tracker as name=value, for example [model=/models/sam2.1-tiny] of sam2_video; set at the "
        "node's start only",
        fixed=True,
    )
    marker_lifetime_s: float = _parameter(
        0.0,
        "[s] lifetime of a result's boxes on ~/markers; 0: until the next result; followed boxes always have 1 s",
        between=(0.0, 86400.0),
        live=True,
    )
    kept_frames: int = _parameter(2, "number of encoded frames kept for follow-up commands", between=(0, 64))
    max_sessions: int = _parameter(
        16, "maximum number of sessions; the least recently used is forgotten", between=(1, 1000)
    )
    max_turns: int = _parameter(8, "maximum number of commands remembered in a session", between=(1, 100))
    restart_pause_s: float = _parameter(
        1.0, "[s] pause before a dead worker process is started again; doubles up to 4 s", between=(0.0, 30.0)
    )
    stuck_worker_s: float = _parameter(
        60.0,
        "[s] a worker that still works on a canceled or timed out command after this is killed and started again",
        between=(0.1, 3600.0),
        live=True,
    )
    cameras: tuple[str, ...] = _parameter(
        ("",),
        "names of cameras, each on NAME/image, NAME/camera_info and NAME/depth; without names: one camera, on image, "
        "camera_info and depth",
    )
    autostart: bool = _parameter(
        True,
        "configure and activate the node at its start; false: a lifecycle manager does; set at the node's start only",
        fixed=True,
    )

    def __post_init__(self) -> None:
        for parameter in fields(self):
            _check(parameter, getattr(self, parameter.name))
        for name in self.cameras:
            if name and not CAMERA.fullmatch(name):
                raise ConfigError(f"cameras has {name!r}; a name is letters, digits and _, as in a topic")
        if len(set(self.cameras)) < len(self.cameras):
            raise ConfigError(f"cameras is {list(self.cameras)!r}; every name must be there once")
        _check_proposals(self.proposals)
        _ = self.engine_options, self.named_tracker_options  # raise for one that cannot be read

    @property
    def engine_options(self) -> dict[str, Any]:
        """``options``, ``vision_tower`` and ``conversation`` as the engine takes them. Raises ConfigError."""
        options = parse_options(filter(None, self.options))
        for name in ("vision_tower", "conversation"):
            value = getattr(self, name)
            if value and name in options:
                raise ConfigError(f"{name} is a parameter and in options, too; give it once")
            if value:
                options[name] = value
        if self.proposals == ("sam",):
            options.setdefault("proposer", "sam")
        return options

    @property
    def named_tracker_options(self) -> dict[str, Any]:
        """``tracker_options`` as the tracker takes them. Raises ConfigError."""
        return parse_options(filter(None, self.tracker_options))

    @property
    def proposal_topics(self) -> tuple[str, ...]:
        """Of another node: the labels image, and perhaps detections; empty where the engine proposes masks itself."""
        return () if self.proposals in (("model",), ("sam",)) else self.proposals

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Of every camera; one empty name where there is one camera without a name."""
        return tuple(filter(None, self.cameras)) or ("",)

    def changed(self, values: Mapping[str, Value]) -> Parameters:
        """With ``values`` instead of the present ones. Raises ConfigError for an unknown, fixed or unusable one."""
        known = {parameter.name: parameter for parameter in fields(self)}
        for name in values:
            if name not in known:
                raise ConfigError(f"there is no parameter {name!r}; there are {', '.join(known)}")
        return replace(self, **{name: _converted(known[name], value) for name, value in values.items()})


def _check_proposals(proposals: tuple[str, ...]) -> None:
    if proposals in (("model",), ("sam",)):
        return
    wrong = [name for name in proposals if not TOPIC.fullmatch(name) or name in ("model", "sam")]
    if wrong or not 1 <= len(proposals) <= 2:
        raise ConfigError(
            f"proposals is {list(proposals)!r}; give [model], [sam], or a topic of labels images and perhaps one of "
            "detections, for example [detector/labels, detector/detections]"
        )


def _converted(parameter: Field[Any], value: Any) -> Any:
    """``value`` in the type that the dataclass has: a whole number where one with a point is meant, lists as tuples."""
    if isinstance(parameter.default, float) and type(value) is int:
        return float(value)
    if isinstance(parameter.default, tuple) and value is None:
        return ()  # to ROS an empty list has no type, and with it no value
    return tuple(value) if isinstance(parameter.default, tuple) and isinstance(value, list) else value


def _check(parameter: Field[Any], value: Any) -> None:
    name, between, choices = parameter.name, parameter.metadata["between"], parameter.metadata["choices"]
    if type(value) is not type(parameter.default):
        raise ConfigError(f"{name} is {value!r}; it must be of type {type(parameter.default).__name__}")
    if choices and value not in choices:
        raise ConfigError(f"{name} is {value!r}; choose one of {_listed(choices)}")
    if between and not between[0] <= value <= between[1]:  # nan is refused too
        raise ConfigError(f"{name} is {value!r}; it must lie between {between[0]} and {between[1]}")


# --- ROS


def declare(node: Node) -> Parameters:
    """Declare every parameter on ``node`` and return what it was started with. Raises ConfigError."""
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    given = {}
    for parameter in fields(Parameters):
        try:
            given[parameter.name] = node.declare_parameter(
                parameter.name, _ros_value(parameter.default), _descriptor(parameter)
            ).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(str(error)) from error
    for text in unknown(node._parameter_overrides):  # rclpy has no public name for what was given
        node.get_logger().warning(text)
    return Parameters().changed(given)


ROS_OWN = re.compile(r"use_sim_time|start_type_description_service|qos_overrides\..*")


def unknown(given: Iterable[str]) -> list[str]:
    """What to say of each given name that is no parameter of the node; ROS itself passes them over in silence."""
    names = [parameter.name for parameter in fields(Parameters)]
    texts = []
    for name in given:
        if name not in names and not ROS_OWN.fullmatch(name):
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else "config/lisa.yaml has all of them"
            texts.append(f"there is no parameter {name!r}, so it has no effect; {hint}")
    return texts


def existing_file(path: str) -> str:
    """``path`` of a parameter file. Raises ConfigError where there is none: the node would start with its defaults."""
    if not Path(path).is_file():
        raise ConfigError(f"params_file {path!r} does not exist; give a YAML file such as a copy of config/lisa.yaml")
    return path


def change(current: Parameters, changes: Iterable[Parameter], *, configured: bool) -> Parameters:
    """``current`` with what a caller sets; others' parameters are passed over.

    Raises ConfigError for a value that cannot be used, and while the node is ``configured`` for one that is not live.
    """
    ours = {parameter.name: parameter for parameter in fields(Parameters)}
    changes = list(changes)
    for change in changes:
        if configured and change.name in ours and not ours[change.name].metadata["live"]:
            raise ConfigError(
                f"{change.name} is read-only once the node is configured; clean the node up first "
                "(ros2 lifecycle set NODE deactivate, cleanup), or start it with the other value"
            )
    changed = current.changed({change.name: change.value for change in changes if change.name in ours})
    if changed.model != current.model:
        _check_chosen_by_service(changed.model)
    for name, value in changed.engine_options.items():
        if isinstance(value, str) and is_url(value) and value != current.engine_options.get(name):
            raise ConfigError(
                f"option {name} is {value!r}; who calls a service may not choose where frames go: start the node with "
                "it"
            )
    return changed


def _check_chosen_by_service(model: str) -> None:
    """Raise ConfigError for a model that would run code or send frames and token away."""
    if is_callable_name(model):
        raise ConfigError(
            f"model is {model!r}, which is code; who calls a service may not choose what runs: start the node with it, "
            "or set a folder"
        )
    if is_url(model):
        raise ConfigError(
            f"model is {model!r}, a server; who calls a service may not choose where frames go: start the node with "
            "it, or set a folder"
        )


def _descriptor(parameter: Field[Any]) -> Any:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    metadata = parameter.metadata
    number = isinstance(parameter.default, float)
    descriptor = ParameterDescriptor(
        description=metadata["description"],
        # One that is not live may change until the node is configured. Those that choose code never: who may call a
        # service of the node is not meant to choose what it runs.
        read_only=metadata["fixed"],
        additional_constraints="; ".join(filter(None, [_choices(parameter), "" if metadata["live"] else NOT_LIVE])),
        dynamic_typing=number,  # so that `timeout_s:=5` is a number too, as everybody writes it
    )
    if metadata["between"]:
        low, high = metadata["between"]
        if number:
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor


def _choices(parameter: Field[Any]) -> str:
    choices = parameter.metadata["choices"]
    return f"one of {_listed(choices)}" if choices else ""


def _ros_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# --- views


def constraint(parameter: Field[Any]) -> str:
    """What a value may be, for people."""
    low_high = parameter.metadata["between"]
    return f"{low_high[0]} to {low_high[1]}" if low_high else _listed(parameter.metadata["choices"])


def _listed(choices: Iterable[str]) -> str:
    return ", ".join(choice or '""' for choice in choices)


def as_yaml() -> str:
    """The text of config/lisa.yaml: every parameter with its default, its meaning and what it may be."""
    lines = ["# Parameters of the node, with their defaults. Written by: python -m lisa_ros.ros.parameters yaml", ""]
    lines += ["/**:", "  ros__parameters:"]
    for parameter in fields(Parameters):
        what = parameter.metadata["description"]
        limits = f" ({constraint(parameter)})" if constraint(parameter) else ""
        live = " May change while the node runs." if parameter.metadata["live"] else ""
        lines += [f"    # {line}" for line in textwrap.wrap(f"{what}{limits}.{live}", 110)]
        lines += [f"    {parameter.name}: {_yaml(parameter.default)}"]
    return "\n".join(lines) + "\n"


def as_table() -> str:
    """The table of the docs, in Markdown."""
    lines = ["| parameter | default | may be | live | meaning |", "|---|---|---|---|---|"]
    for parameter in fields(Parameters):
        live = "yes" if parameter.metadata["live"] else ""
        lines.append(
            f"| `{parameter.name}` | `{_yaml(parameter.default)}` | {constraint(parameter)} | {live} | "
            f"{parameter.metadata['description']} |"
        )
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return (
        {True: "true", False: "false"}[value]
        if isinstance(value, bool)
        else f'"{value}"'
        if value == ""
        else str(value)
    )


if __name__ == "__main__":
    sys.stdout.write(as_table() if sys.argv[1:] == ["table"] else as_yaml())
