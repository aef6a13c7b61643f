"""The files that make it a package agree with each other: one version, one list of interfaces, one set of statuses."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

import lisa_ros

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def constants(text: str, section: int = 0) -> dict[str, int]:
    """The uint8 constants of one section of an interface file's text."""
    return {
        name: int(value)
        for name, value in re.findall(r"^uint8 ([A-Z_]+) = (\d+)", text.split("\n---\n")[section], re.MULTILINE)
    }


def test_package_xml_has_the_version_of_the_library(repository: Path) -> None:
    assert ElementTree.parse(repository / "package.xml").findtext("version") == lisa_ros.__version__


def test_changelog_names_the_version(repository: Path) -> None:
    assert re.search(rf"^{re.escape(lisa_ros.__version__)} ", (repository / "CHANGELOG.rst").read_text(), re.MULTILINE)


def test_cmake_builds_every_interface(repository: Path) -> None:
    files = {
        str(path.relative_to(repository)) for kind in ("msg", "srv", "action") for path in repository.glob(f"{kind}/*")
    }
    assert set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (repository / "CMakeLists.txt").read_text())) == files


def test_cmake_dependencies_are_declared_in_package_xml(repository: Path) -> None:
    found = set(re.findall(r"find_package\((\w+)", (repository / "CMakeLists.txt").read_text()))
    root = ElementTree.parse(repository / "package.xml").getroot()
    declared = {child.text for child in root if child.tag in ("depend", "build_depend", "buildtool_depend")}
    assert found <= declared


def test_statuses_are_the_same_in_message_action_and_service(repository: Path) -> None:
    message = constants((repository / "msg/Segmentation.msg").read_text())
    assert constants((repository / "action/Segment.action").read_text(), section=1) == message
    assert constants((repository / "srv/SegmentImage.srv").read_text(), section=1) == message
    assert list(message.values()) == list(range(11))


def test_library_is_importable_from_a_wheel_without_ros(repository: Path, tmp_path: Path) -> None:
    """What `pip install .` installs: modules, models, assets; of the messages, which only ROS can build, their text."""
    source = tmp_path / "source"
    source.mkdir()
    # A copy: setuptools would take files of an earlier build along, and leave its own behind.
    for name in ("lisa_ros", "msg", "pyproject.toml", "LICENSE", "README.md"):
        if (repository / name).exists():
            subprocess.run(["cp", "-rL", str(repository / name), str(source / name)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("lisa_ros-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    tree = {
        str(path.relative_to(repository))
        for path in (repository / "lisa_ros").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tree <= names
    texts = {f"share/lisa_ros/msg/{file.name}" for file in (repository / "msg").iterdir()}
    assert {name.split(".data/data/")[1] for name in names if ".data/data/" in name} == texts
    script = "import lisa_ros.perception.masks, lisa_ros.errors, sys; assert not {'rclpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path / "site")


def test_pinned_library_satisfies_the_ranges_of_pyproject(repository: Path) -> None:
    """The pins and the ranges name the same packages, so that neither is forgotten."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    open_ranges = project["dependencies"] + project["optional-dependencies"]["quant"]
    names = {re.split(r"[<>=~ ;\[]", requirement)[0].lower() for requirement in open_ranges}
    pins = (repository / "requirements/library.txt").read_text().splitlines()
    assert {re.split("==", line)[0].lower() for line in pins if not line.startswith("#")} == names


@pytest.mark.parametrize("distribution", ["jazzy", "kilted"])
def test_ros_wheels_are_pinned_exactly(repository: Path, distribution: str) -> None:
    lines = (repository / f"requirements/ros-{distribution}.txt").read_text().splitlines()
    assert all(re.fullmatch(r"ros-[a-z0-9-]+==[0-9.]+", line) for line in lines if not line.startswith("#"))


def test_cmake_paths_of_the_wheels_become_this_interpreters(repository: Path) -> None:
    namespace: dict = {}
    exec(compile((repository / "scripts/fix_cmake_paths.py").read_text(), "fix_cmake_paths.py", "exec"), namespace)
    builder = "/opt/python/cp312-cp312"
    text = f'"{builder}/include/python3.12;{builder}/lib/python3.12/site-packages/numpy/_core/include"'
    fixed = namespace["fix"](text, r"/usr/include/python\3", "/venv/site-packages")
    assert fixed == r'"/usr/include/python\3;/venv/site-packages/numpy/_core/include"'
    assert namespace["fix"](fixed, r"/usr/include/python\3", "/venv/site-packages") == fixed
