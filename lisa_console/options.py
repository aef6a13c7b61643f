"""The node's live parameters, through its parameter services."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

from lisa_ros.ros.parameters import Parameters

LIVE = {one.name: one for one in fields(Parameters) if one.metadata["live"]}


class Options:
    """Reads and changes them.

    Args:
        node: Calls.
        lisa: Full name of the node that has the parameters.
        tell: Is given all of them: name, value, description, least and most.
        fail: Is given the reason why one cannot be changed.
    """

    def __init__(
        self,
        node: Node,
        lisa: str,
        tell: Callable[[Sequence[dict[str, Any]]], None],
        fail: Callable[[str], None],
    ) -> None:
        self._tell, self._fail, self._lisa = tell, fail, lisa
        self._values: dict[str, Any] = {}
        self._get = node.create_client(GetParameters, f"{lisa}/get_parameters")
        self._set = node.create_client(SetParameters, f"{lisa}/set_parameters")

    def read(self) -> None:
        """Ask for the present values."""
        if self._get.service_is_ready():
            self._get.call_async(GetParameters.Request(names=list(LIVE))).add_done_callback(self._take)

    def set(self, name: str, value: bool | int | float | str) -> None:
        """Change one."""
        if name not in LIVE:
            self._fail(f"{name!r} is no parameter that may change while the node runs")
        elif not self._set.service_is_ready():
            self._fail(f"there is no node {self._lisa}")
        elif (typed := _typed(LIVE[name].default, value)) is None:
            self._fail(f"{name} is {value!r}; a value such as {LIVE[name].default!r} is wanted")
        else:
            request = SetParameters.Request(parameters=[Parameter(name=name, value=typed)])
            self._set.call_async(request).add_done_callback(lambda future: self._take_set(future, name))

    def _take(self, future: Any) -> None:
        values = future.result().values
        options = []
        for (name, one), value in zip(LIVE.items(), values, strict=False):
            known = parameter_value_to_python(value)
            if isinstance(known, bool | int | float | str):
                least, most = one.metadata["between"] or (None, None)
                description = one.metadata["description"]
                options.append({"name": name, "value": known, "description": description, "least": least, "most": most})
        self._tell(options)

    def _take_set(self, future: Any, name: str) -> None:
        result = future.result().results[0]
        if not result.successful:
            self._fail(f"{name} is not changed: {result.reason}")
        self.read()


def _typed(like: Any, value: Any) -> ParameterValue | None:
    """``value`` in the type of the default; None where it cannot be."""
    if isinstance(like, bool):
        return ParameterValue(type=1, bool_value=value) if isinstance(value, bool) else None
    if isinstance(like, str):
        return ParameterValue(type=4, string_value=value) if isinstance(value, str) else None
    if isinstance(value, bool | str):
        return None
    if isinstance(like, int):
        return ParameterValue(type=2, integer_value=int(value)) if value == int(value) else None
    return ParameterValue(type=3, double_value=float(value))
