"""The launch file: read as text where ROS's launch is not installed (the wheels lack it), run where it is."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from lisa_ros.engine.options import PRECISIONS
from lisa_ros.errors import ConfigError
from lisa_ros.ros.parameters import Parameters, existing_file

FILE = Path("launch/lisa.launch.py")


@pytest.fixture(scope="module")
def tree(repository: Path) -> ast.Module:
    return ast.parse((repository / FILE).read_text())


def calls(tree: ast.Module, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == name]


@pytest.fixture(scope="module")
def arguments(tree: ast.Module) -> dict[str, dict[str, ast.expr]]:
    """Each declared argument's keywords."""
    return {
        ast.literal_eval(call.args[0]): {str(keyword.arg): keyword.value for keyword in call.keywords}
        for call in calls(tree, "DeclareLaunchArgument")
    }


@pytest.fixture(scope="module")
def passed_on(tree: ast.Module) -> list[str]:
    """The arguments that become node parameters."""
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PARAMETERS"
    ]
    return ast.literal_eval(value)


def test_every_argument_has_a_description_and_a_default(arguments: dict[str, dict[str, ast.expr]]) -> None:
    assert all({"default_value", "description"} <= set(keywords) for keywords in arguments.values())


def test_arguments_that_are_passed_on_are_parameters_of_the_node(
    arguments: dict[str, dict[str, ast.expr]], passed_on: list[str]
) -> None:
    assert set(passed_on) <= set(arguments)
    assert set(passed_on) <= {parameter.name for parameter in fields(Parameters)}


def test_an_argument_that_was_not_given_overrules_no_parameter_file(
    arguments: dict[str, dict[str, ast.expr]], passed_on: list[str]
) -> None:
    assert all(ast.literal_eval(arguments[name]["default_value"]) == "" for name in passed_on)


def test_choices_are_those_of_the_node(arguments: dict[str, dict[str, ast.expr]], passed_on: list[str]) -> None:
    for parameter in fields(Parameters):
        choices = parameter.metadata["choices"]
        if parameter.name in passed_on and choices:
            written = ast.unparse(arguments[parameter.name]["choices"])
            assert tuple(eval(written, {"PRECISIONS": PRECISIONS})) == ("", *filter(None, choices))


def test_every_argument_is_used(
    tree: ast.Module, arguments: dict[str, dict[str, ast.expr]], passed_on: list[str]
) -> None:
    used = {call.args[0].value for call in calls(tree, "LaunchConfiguration") if isinstance(call.args[0], ast.Constant)}
    assert set(arguments) == used | set(passed_on)


def test_nothing_is_evaluated_installed_or_downloaded(tree: ast.Module) -> None:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"eval", "exec", "ExecuteProcess", "PythonExpression", "subprocess", "os"}
    (environment,) = [
        ast.literal_eval(keyword.value)
        for call in calls(tree, "Node")
        for keyword in call.keywords
        if keyword.arg == "additional_env"
    ]
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_it_describes_one_node_with_the_arguments_on_top_of_the_file(repository: Path, tmp_path: Path) -> None:
    reason = "ROS's launch and launch_ros are not among the wheels; a ROS installation has them"
    pytest.importorskip("launch_ros", reason=reason)
    launch = pytest.importorskip("launch", reason=reason)
    spec = importlib.util.spec_from_file_location("lisa_launch", repository / FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "own.yaml").write_text("{}")
    context = launch.LaunchContext()
    context.launch_configurations.update({"params_file": str(tmp_path / "own.yaml"), "device": "cpu"})
    for argument in module.generate_launch_description().get_launch_arguments():
        argument.visit(context)
    (node,) = module.start_node(context)
    assert node.node_package == "lisa_ros"
    assert node.node_executable == "lisa_node"


def test_a_parameter_file_that_does_not_exist_is_refused(tree: ast.Module, tmp_path: Path) -> None:
    (call,) = calls(tree, "existing_file")
    assert "params_file" in ast.unparse(call)
    with pytest.raises(ConfigError, match=r"own.yaml' does not exist; give a YAML file"):
        existing_file(str(tmp_path / "own.yaml"))
    (tmp_path / "own.yaml").write_text("{}")
    assert existing_file(str(tmp_path / "own.yaml")) == str(tmp_path / "own.yaml")
