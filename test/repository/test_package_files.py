"""The files that make it a package agree with each other: one version, one list of interfaces, one set of statuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

import lisa_ros

PACKAGES = ("lisa_ros", "lisa_console", "lisa_sim", "lisa_small")

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


def requirements(file: Path) -> list[str]:
    """The lines of a list for pip, without comments."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def name_of(requirement: str) -> str:
    """ "numpy>=1.24" -> "numpy"."""
    return re.split(r"[<>=~ ;\[]", requirement)[0]


def changelog(repository: Path) -> str:
    return (repository / "CHANGELOG.rst").read_text()


def test_package_xml_has_the_version_of_the_library(repository: Path) -> None:
    assert ElementTree.parse(repository / "package.xml").findtext("version") == lisa_ros.__version__


def test_changelog_names_the_version(repository: Path) -> None:
    assert re.search(rf"^{re.escape(lisa_ros.__version__)} ", changelog(repository), re.MULTILINE)


def test_cmake_builds_every_interface(repository: Path) -> None:
    files = {
        str(path.relative_to(repository)) for kind in ("msg", "srv", "action") for path in repository.glob(f"{kind}/*")
    }
    assert set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (repository / "CMakeLists.txt").read_text())) == files


def test_cmake_dependencies_are_declared_in_package_xml(repository: Path) -> None:
    found = set(re.findall(r"find_package\((\w+)", (repository / "CMakeLists.txt").read_text()))
    root = ElementTree.parse(repository / "package.xml").getroot()
    declared = {
        child.text for child in root if child.tag in ("depend", "build_depend", "buildtool_depend", "test_depend")
    }
    assert found <= declared


def test_rosdep_and_pip_together_bring_what_the_library_needs(repository: Path) -> None:
    """On a robot: package.xml and requirements/robot.txt name every requirement of pyproject.toml."""
    keys = {"numpy": "python3-numpy", "opencv-python-headless": "python3-opencv", "PyYAML": "python3-yaml"}
    keys["tqdm"] = "python3-tqdm"
    root = ElementTree.parse(repository / "package.xml").getroot()
    declared = {child.text for child in root if child.tag == "exec_depend"}
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    from_pip = set(requirements(repository / "requirements/robot.txt"))
    for requirement in project["dependencies"]:
        assert requirement in from_pip or keys[name_of(requirement)] in declared, requirement
    assert from_pip <= set(project["dependencies"])
    comments = " ".join(re.findall(r"<!--(.*?)-->", (repository / "package.xml").read_text(), re.DOTALL)).lower()
    assert all(name_of(requirement) in comments for requirement in from_pip)


def test_every_document_names_the_same_versions_for_pip(repository: Path) -> None:
    """A pip line of a document is no older than the ranges of pyproject.toml."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    for document in [*repository.glob("*.md"), *repository.glob("docs/*.md")]:
        for line in re.findall(r"^pip install .*torch>=.*$", document.read_text(), re.MULTILINE):
            for requirement in re.findall(r'"([\w-]+>=[^"]+)"', line):
                assert requirement in project["dependencies"], f"{document.name}: {requirement}"


def test_the_licences_are_the_same_everywhere_and_their_texts_are_shipped(repository: Path) -> None:
    expression = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["license"]
    tags = ElementTree.parse(repository / "package.xml").getroot().findall("license")
    assert [tag.text for tag in tags] == expression.split(" AND ")
    for tag in tags:
        text = (repository / tag.attrib["file"]).read_text()
        assert len(text) > 1_400, f"{tag.attrib['file']} is not the whole licence"
    credits = (repository / "lisa_small/scenes/assets/CREDITS.md").read_text()
    spdx = {"CC0 1.0": "CC0-1.0", "CC BY 3.0": "CC-BY-3.0", "CC BY 3.0 US": "CC-BY-3.0-US"}
    used = {row.split("|")[4].strip() for row in credits.splitlines() if row.startswith("| ")} - {"licence", "---"}
    assert {spdx[licence] for licence in used} == set(expression.split(" AND ")) - {"Apache-2.0", "BSD-3-Clause"}


def test_the_citation_names_this_version(repository: Path) -> None:
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format demands
    assert citation["version"] == lisa_ros.__version__
    released = re.search(rf"^{re.escape(lisa_ros.__version__)} \((.*)\)$", changelog(repository), re.MULTILINE)
    assert released, "the change log has no dated section of this version"
    assert str(citation["date-released"]) == released[1]


def test_the_same_ruff_runs_before_a_commit_and_in_make_lint(repository: Path) -> None:
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())["repos"]
    (ruff,) = [repo["rev"] for repo in hooks if repo["repo"].endswith("/ruff-pre-commit")]
    assert f"ruff=={ruff.removeprefix('v')}" in requirements(repository / "requirements/test.txt")


@pytest.mark.parametrize("name", ["ci", "docker"])
def test_a_workflow_runs_on_every_supported_ros_and_calls_what_exists(repository: Path, name: str) -> None:
    text = (repository / f".github/workflows/{name}.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    matrices = [job.get("strategy", {}).get("matrix", {}).get("ros", []) for job in jobs.values()]
    assert ["humble", "jazzy", "kilted", "lyrical"] in matrices
    makefile = (repository / "Makefile").read_text()
    for target in re.findall(r"\bmake (\w+)$", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    for file in re.findall(r"(?:src/lisa_ros/)?((?:requirements|docker|demo)/[\w.]+)", text):
        assert (repository / file).exists(), file


def test_the_image_for_a_robot_copies_what_exists_and_does_not_run_as_root(repository: Path) -> None:
    lines = (repository / "docker/Dockerfile").read_text().splitlines()
    for source in [line.split()[1] for line in lines if line.startswith("COPY ")]:
        assert (repository / source).exists(), source
    assert [line for line in lines if line.startswith("USER ")] == ["USER lisa"]
    assert os.access(repository / "docker/entrypoint.sh", os.X_OK)


@pytest.mark.parametrize("form", ["bug.yml", "engine.yml"])
def test_an_issue_form_has_what_the_format_demands(repository: Path, form: str) -> None:
    content = yaml.safe_load((repository / ".github/ISSUE_TEMPLATE" / form).read_text())
    assert {"name", "description", "body"} <= set(content)
    asked = [field for field in content["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in asked}) == len(asked)
    assert all(field["attributes"]["label"] for field in asked)
    assert all(isinstance(option, str) for field in asked for option in field["attributes"].get("options", []))


def test_statuses_are_the_same_in_message_action_and_service(repository: Path) -> None:
    message = constants((repository / "msg/Segmentation.msg").read_text())
    assert constants((repository / "action/Segment.action").read_text(), section=1) == message
    assert constants((repository / "srv/SegmentImage.srv").read_text(), section=1) == message
    assert list(message.values()) == list(range(11))


def test_library_is_importable_from_a_wheel_without_ros(repository: Path, tmp_path: Path) -> None:
    """What `pip install .` installs: modules, models, assets; of the messages, which only ROS can build, their text."""
    pytest.importorskip("setuptools", minversion="77", reason="the wheel's licence needs it: pip install setuptools")
    source = tmp_path / "source"
    source.mkdir()
    # A copy: setuptools would take files of an earlier build along, and leave its own behind.
    for name in (*PACKAGES, "msg", "pyproject.toml", "LICENSE", "LICENSES", "README.md"):
        subprocess.run(["cp", "-rL", str(repository / name), str(source / name)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("lisa_ros-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    tree = {
        str(path.relative_to(repository))
        for package in PACKAGES
        for path in (repository / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert tree <= names
    assert {"lisa_ros/py.typed", "lisa_small/py.typed", "lisa_small/weights/model.safetensors"} <= tree
    assert {f"LICENSES/{file.name}" for file in (repository / "LICENSES").iterdir()} <= {
        name.split("/licenses/")[1] for name in names if ".dist-info/licenses/" in name
    }
    assert wheel.stat().st_size < 25_000_000, "what has made the wheel larger? 21 MB: weights 15, scenes' objects 5"
    texts = {f"share/lisa_ros/msg/{file.name}" for file in (repository / "msg").iterdir()}
    assert {name.split(".data/data/")[1] for name in names if ".data/data/" in name} == texts
    script = "import lisa_ros.perception.masks, lisa_ros.errors, sys; assert not {'rclpy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path / "site")


def test_pinned_library_satisfies_the_ranges_of_pyproject(repository: Path) -> None:
    """The pins and the ranges name the same packages, so that neither is forgotten."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    open_ranges = project["dependencies"] + project["optional-dependencies"]["quant"]
    names = {name_of(requirement).lower() for requirement in open_ranges}
    assert {name_of(line).lower() for line in requirements(repository / "requirements/library.txt")} == names


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


def test_the_command_that_colcon_installs_starts(repository: Path) -> None:
    """Without pip: as `ros2 run lisa_ros lisa`, and as lisa on the PATH of a workspace."""
    installed = (repository / "CMakeLists.txt").read_text()
    programs = "scripts/ask scripts/console scripts/lisa scripts/lisa_node scripts/robot_cell"
    assert f"install(PROGRAMS {programs} DESTINATION lib/${{PROJECT_NAME}})" in installed
    assert "install(PROGRAMS scripts/lisa DESTINATION bin)" in installed
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, repository / "scripts/lisa", "--version"], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == f"lisa_ros {lisa_ros.__version__}", done.stderr
