"""Which engine serves a model."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lisa_ros import load_engine
from lisa_ros.engine import registry
from lisa_ros.engine.api import Ask
from lisa_ros.engine.options import check_options, parse_options
from lisa_ros.errors import CheckpointError, ConfigError

PLUGIN = """
from lisa_ros.engine.api import Answer, EngineInfo
from lisa_ros.errors import CheckpointError


class Echo:
    def __init__(self, **given):
        self.given = given
        self.info = EngineInfo("echo", given["device"], given["precision"])

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        return Answer(ask.text)


def load(*, model, device, precision, options, progress):
    return Echo(model=model, device=device, precision=precision, options=options, progress=progress)


def recognises(folder, config):
    return config.get("architecture") == "echo"


def no_engine(*, model, device, precision, options, progress):
    return None


def wrong_signature(path):
    return Echo()


def fails(*, model, device, precision, options, progress):
    raise CheckpointError("the weights are damaged; fetch them again")


number = 3
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third party's package with an entry point, as pip leaves it on the path."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "echo_plugin.py").write_text(PLUGIN)
    (site / "broken_plugin.py").write_text("def load(:\n")
    about = site / "echo_plugin-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-plugin\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[lisa_ros.engines]\necho = echo_plugin:load\nbroken = broken_plugin:load\ngone = nowhere.at_all:load\n"
    )
    monkeypatch.syspath_prepend(site)
    for name in ("echo_plugin", "broken_plugin"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return site


def folder(path: Path, **files: object) -> Path:
    """A model folder with JSON files: ``engine={...}`` is engine.json."""
    path.mkdir()
    for name, content in files.items():
        (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- names


@pytest.mark.usefixtures("plugin")
def test_a_callable_needs_no_packaging() -> None:
    def report(share: float) -> None:
        del share

    engine = load_engine("echo_plugin:load", "cuda:1", "fp16", {"size": 3}, report)
    assert engine.engine.given == {
        "model": "echo_plugin:load",
        "device": "cuda:1",
        "precision": "fp16",
        "options": {"size": 3},
        "progress": report,
    }
    assert engine.ask(engine.encode(np.zeros((2, 2, 3), np.uint8)), Ask("hello")).text == "hello"


@pytest.mark.usefixtures("plugin")
def test_installed_engines_are_listed_after_the_built_in_ones() -> None:
    assert registry.known()[:2] == ["lisa", "lisa_small"]
    assert {"echo", "broken", "gone"} <= set(registry.known())


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize("file", ["engine", "config"])
def test_a_folder_names_an_installed_engine(tmp_path: Path, file: str) -> None:
    path = folder(tmp_path / "model", **{file: {"engine": "echo"}})
    engine = load_engine(path, options={"a": 1})
    assert engine.engine.given["model"] == str(path)
    assert engine.engine.given["options"] == {"a": 1}


@pytest.mark.usefixtures("plugin")
def test_engine_json_comes_before_config_json(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", engine={"engine": "echo"}, config={"engine": "lisa"})
    assert registry.engine_name(path) == "echo"


@pytest.mark.usefixtures("plugin")
def test_an_engine_recognises_a_folder_that_names_none(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", config={"architecture": "echo"})
    assert registry.engine_name(path) == "echo"


@pytest.mark.usefixtures("plugin")
def test_a_plugin_that_cannot_be_imported_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder(tmp_path / "model", config={"architecture": "llava"})
    with caplog.at_level(logging.WARNING):
        assert registry.engine_name(path) == "lisa"
    assert "engine 'broken' (broken_plugin) cannot say whether it serves" in caplog.text


def test_the_demo_model_is_recognised_and_is_the_default(repository: Path) -> None:
    assert registry.engine_name(registry.bundled_model()) == "lisa_small"
    assert registry.engine_name(repository / "test/golden/ckpt") == "lisa"


@pytest.mark.usefixtures("plugin")
def test_a_home_folder_is_expanded_for_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = folder(tmp_path / "model", engine={"engine": "echo"})
    assert load_engine("~/model").engine.given["model"] == str(path)


@pytest.mark.usefixtures("plugin")
def test_a_url_goes_to_the_engine_of_its_scheme() -> None:
    assert load_engine("echo://robot:8000/a").engine.given["model"] == "echo://robot:8000/a"


# --- mistakes


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("grpc://robot", "no engine serves 'grpc://robot'; installed engines: lisa, lisa_small"),
        ("nowhere.at_all:load", "engine 'nowhere.at_all:load' cannot be imported: .*PYTHONPATH"),
        ("echo_plugin:absent", "engine 'echo_plugin:absent' cannot be imported: .*absent"),
        ("broken_plugin:load", "engine 'broken_plugin:load' cannot be imported: SyntaxError"),
        ("echo_plugin:number", "engine 'echo_plugin:number' is a int; it must be a callable"),
        ("echo_plugin:wrong_signature", "the factory of echo_plugin:wrong_signature must take the keywords model, dev"),
        ("echo_plugin:no_engine", "NoneType is not an engine: it has no info, encode, ask"),
        ("broken://x", "engine 'broken' .* cannot be imported"),
    ],
)
def test_what_is_wrong_with_a_name_is_one_error(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine(model)


@pytest.mark.usefixtures("plugin")
def test_an_error_of_the_factory_reaches_the_caller() -> None:
    with pytest.raises(CheckpointError, match="the weights are damaged"):
        load_engine("echo_plugin:fails")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"engine": "other"}, ConfigError, "names the engine 'other', which is not installed; installed engines: lisa"),
        ({"engine": 3}, CheckpointError, r'"engine" is 3; it must be the name of an engine'),
        ("{broken", CheckpointError, "engine.json is not readable JSON"),
        ("[]", CheckpointError, "engine.json is not a JSON object"),
        ({"engine": "echo_plugin:load"}, ConfigError, "which is not installed"),
    ],
)
def test_a_wrong_engine_json_is_named(tmp_path: Path, content: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load_engine(folder(tmp_path / "model", engine=content))


def test_a_folder_that_is_missing_is_an_error_of_its_engine() -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_engine("nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": 3},
            "engine 'lisa' has no option 'size'; "
            "its options: coarse_regions, conversation, family, points, vision_tower",
        ),
        ({"family": "gres"}, "family is 'gres'; choose one of lisa, sesame, read, lasagna, gsva, cores"),
        ({"conversation": 3}, "option conversation is 3; it must be text"),
    ],
)
def test_a_wrong_option_of_lisa_is_named(repository: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine(repository / "test/golden/ckpt", "cpu", options=options)


# --- options


def test_options_are_read_as_yaml() -> None:
    given = parse_options(["family=lisa", "size=3", "share=0.5", "deep={a: [1, 2]}", "empty=", "on=true", "sum=a=b"])
    assert given == {
        "family": "lisa",
        "size": 3,
        "share": 0.5,
        "deep": {"a": [1, 2]},
        "empty": None,
        "on": True,
        "sum": "a=b",
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("size", "option 'size' is not name=value"),
        ("=3", "is not name=value"),
        ("a b=3", "is not name=value"),
        ("a={", "option a='{' cannot be read as YAML"),
    ],
)
def test_a_malformed_option_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options([setting])


def test_an_option_that_is_given_twice_is_an_error() -> None:
    with pytest.raises(ConfigError, match="option 'a' is given twice"):
        parse_options(["a=1", "a=2"])


def test_an_engine_without_options_says_so() -> None:
    with pytest.raises(ConfigError, match="engine 'colours' has no option 'x'; its options: none"):
        check_options({"x": 1}, (), "colours")


# --- imports


@pytest.mark.parametrize(
    "statement",
    [
        "import lisa_ros",
        "from lisa_ros import load_engine",
        "import lisa_ros.engine.api, lisa_ros.engine.registry, lisa_ros.engine.support, lisa_ros.engine.options",
        "import lisa_ros; lisa_ros.load_engine('colour_engine:load')",
    ],
)
def test_neither_torch_nor_ros_is_imported_without_need(repository: Path, statement: str) -> None:
    check = f"{statement}\nimport sys\nprint(*sorted({{'torch', 'transformers', 'rclpy'}} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": f"{repository}:{repository / 'examples'}"}
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_interface_needs_numpy_only(repository: Path) -> None:
    """A client of a remote engine installs nothing else."""
    check = "import sys; before = set(sys.modules); import lisa_ros.engine.api\nprint(*set(sys.modules) - before)"
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()} - set(sys.stdlib_module_names)
    assert {name for name in packages if not name.startswith("_")} <= {"numpy", "lisa_ros"}


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    import lisa_ros

    with pytest.raises(AttributeError, match="no attribute 'load_engines'"):
        _ = lisa_ros.load_engines


def test_an_exponent_is_a_number_and_a_date_is_refused() -> None:
    assert parse_options(["smallest=1e-3", "largest=2E5"]) == {"smallest": 0.001, "largest": 200000.0}
    with pytest.raises(ConfigError, match="no text, number, list or mapping"):
        parse_options(["since=2026-11-30"])


def test_an_engine_json_without_an_engine_is_named(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no engine"):
        load_engine(tmp_path)


def test_the_name_of_an_engine_is_no_model():
    with pytest.raises(ConfigError, match="'lisa' is the name of an engine; give a model: a folder or"):
        load_engine("lisa")


def test_without_torch_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs torch, which is not installed; pip install torch"):
        load_engine("")
