"""The documents speak of things that exist, and the README's commands do what it says."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from lifecycle_names import LIFECYCLE
from machine_speed import limit
from PIL import Image

from lisa_console.settings import Settings
from lisa_ros.cli import COMMANDS
from lisa_ros.lisa.weights.inspect import inspect
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.status import Status
from lisa_small import model_folder

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("demo/*.md"))]
SHELLS = ("bash", "sh", "console", "text", "")
PROGRAMS = ("make", "lisa", "python", "ros2", "pip", "pytest")
EXISTING = (
    "docs",
    "lisa_ros",
    "lisa_small",
    "lisa_sim",
    "lisa_console",
    "test",
    "demo",
    "launch",
    "config",
    "scripts",
    "benchmarks",
    "requirements",
    "examples",
)
FOR_THE_DEMO_MODEL = ("scenes.md",)  # reached from demo_model.md


@dataclass(frozen=True)
class Block:
    """A fenced piece of a document. language: what stands behind the fence."""

    language: str
    text: str


@dataclass(frozen=True)
class Document:
    path: Path
    blocks: tuple[Block, ...]
    prose: str

    @property
    def spans(self) -> list[str]:
        """What stands between single backticks."""
        return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", self.prose)]

    @property
    def lines(self) -> list[str]:
        """The lines of blocks for the shell."""
        return [line for block in self.blocks if block.language in SHELLS for line in shell_lines(block)]

    @property
    def commands(self) -> list[list[str]]:
        """Every command, in words, of the blocks and of the running text."""
        return commands_in([*self.lines, *self.spans])


@cache
def read(path: Path) -> Document:
    text = path.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    blocks = tuple(Block(language, body) for language, body in fence.findall(text))
    return Document(path, blocks, fence.sub("", text))


def shell_lines(block: Block) -> list[str]:
    """Whole lines, continued ones joined, the prompt left out."""
    return [line.removeprefix("$ ") for line in block.text.replace("\\\n", " ").splitlines()]


def commands_in(lines: list[str]) -> list[list[str]]:
    """Calls of PROGRAMS, in words; a variable that is set before one is left out."""
    return [words for line in lines for words in split(line) if words and words[0] in PROGRAMS]


def split(line: str) -> Iterator[list[str]]:
    """The commands of a line that are joined by &&, ; or |. A line that is no shell gives none."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    try:
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                yield words
                words = []
            else:
                words.append(word)
    except ValueError:
        return


def every(documents: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", documents, ids=[str(path.relative_to(ROOT)) for path in documents])


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ +(.*)$", read(path).prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def is_made(path: str) -> bool:
    """Whether git ignores it: a file that a command of ours writes."""
    return subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0


@cache
def launch_arguments() -> set[str]:
    text = (ROOT / "launch/lisa.launch.py").read_text()
    return set(re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', text))


def parameter_names() -> set[str]:
    """Of the node and of the console."""
    return {parameter.name for kind in (Parameters, Settings) for parameter in fields(kind)} | {"use_sim_time"}


@cache
def topics() -> set[str]:
    """All names that the node gives to topics, services and actions: "image", "~/mask"."""
    source = "\n".join(path.read_text() for path in (ROOT / "lisa_ros/ros").glob("*.py"))
    console = (ROOT / "lisa_console/robot.py").read_text()  # publishes beside the node's own topics
    beside = {f"~/{name}" for name in re.findall(r'create_publisher\(\w+, f"\{name\}/(\w+)"', console)}
    return set(re.findall(r'"(~/\w+)"', source)) | beside | {"image", "camera_info"} | LIFECYCLE


@cache
def options(command: str) -> str:
    """The help text of ``lisa command``."""
    parser = argparse.ArgumentParser()
    import_module(COMMANDS[command][0]).add_arguments(parser)
    return parser.format_help()


# --- links and files


@every(DOCUMENTS)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(path).prose):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path.name} links to {target}, which is not there"
        assert not anchor or anchor in anchors(file), f"{path.name} links to {target}; it has {sorted(anchors(file))}"


@every(DOCUMENTS)
def test_files_that_are_named_exist(path: Path) -> None:
    for span in read(path).spans:
        if re.fullmatch(rf"(?:{'|'.join(EXISTING)})/[\w./*-]*", span) and not is_interface(span):
            assert list(ROOT.glob(span.rstrip("/"))) or is_made(span), f"{path.name} names {span}, which is not there"


@every(DOCUMENTS)
def test_modules_that_are_named_exist(path: Path) -> None:
    for span in read(path).spans:
        if re.fullmatch(r"lisa_ros(\.\w+)+", span):
            *module, name = span.split(".")
            known = find_spec(span) is not None if find_spec(".".join(module)).submodule_search_locations else False
            assert known or hasattr(import_module(".".join(module)), name), f"{path.name} names {span}"


def is_interface(span: str) -> bool:
    """lisa_ros/Segment, lisa_ros/action/Segment: a type, not a file."""
    return re.fullmatch(r"lisa_ros/(?:\w+/)?[A-Z]\w+", span) is not None


# --- ROS names


@every(DOCUMENTS)
def test_interfaces_that_are_named_exist(path: Path) -> None:
    document = read(path)
    text = document.prose + "".join(block.text for block in document.blocks)
    for kind, name in re.findall(r"\blisa_ros/(?:(msg|srv|action)/)?([A-Z]\w+)", text):
        found = list(ROOT.glob(f"{kind or '*'}/{name}.{kind or '*'}"))
        assert found, f"{path.name} names the interface lisa_ros/{name}"


@every(DOCUMENTS)
def test_topics_that_are_named_exist(path: Path) -> None:
    document = read(path)
    named = {name for span in document.spans for name in re.findall(r"(?<!\S)~/\w+(?![\w/.-])", span)}
    named -= {span for span in named if Path(span).expanduser().exists() or span == "~/ros2_ws"}
    for words in document.commands:
        named |= {f"~/{word.removeprefix('/lisa/')}" for word in words if re.fullmatch(r"/lisa/\w+", word)}
    assert named <= topics(), f"{path.name} names {sorted(named - topics())}"


@every(DOCUMENTS)
def test_parameters_and_launch_arguments_that_are_named_exist(path: Path) -> None:
    document = read(path)
    for line in [*document.lines, *document.spans]:
        for flag, name in re.findall(r"(-p |-r )?(?<![\w/])(\w+):=", line):
            known = {"-p ": parameter_names(), "-r ": topics(), "": launch_arguments()}[flag]
            assert name in known, f"{path.name}: {name} in {line!r} is none of {sorted(known)}"


@every(DOCUMENTS)
def test_tables_of_parameters_name_parameters(path: Path) -> None:
    for table in re.findall(r"^\| *parameter *\|.*\n\|[-| :]+\|\n((?:\|.*\n)+)", read(path).prose, re.MULTILINE):
        for row in table.splitlines():
            names = set(re.findall(r"`(\w+)`", row.split("|")[1]))
            assert names, row
            assert names <= parameter_names(), f"{path.name}: {sorted(names - parameter_names())}"


@every(DOCUMENTS)
def test_messages_on_the_command_line_have_the_fields_of_their_type(path: Path) -> None:
    """As in ros2 action send_goal /lisa/segment lisa_ros/action/Segment "{command: ...}"."""
    for words in read(path).commands:
        for kind, name, text in zip(words, words[1:], words[2:], strict=False):
            interface = re.fullmatch(r"lisa_ros/(msg|srv|action)/(\w+)", name)
            if words[0] == "ros2" and interface and text.startswith("{"):
                sections = (ROOT / interface[1] / f"{interface[2]}.{interface[1]}").read_text().split("\n---\n")
                known = set(re.findall(r"^[\w/\[\]]+ (\w+)\s*(?:#|$)", sections[0], re.MULTILINE))
                assert set(yaml.safe_load(text)) <= known, f"{path.name}: {kind} {name} {text}"


def test_every_topic_parameter_and_launch_argument_is_documented() -> None:
    spans = {span for path in DOCUMENTS for span in read(path).spans}
    text = " ".join([*spans, *(block.text for path in DOCUMENTS for block in read(path).blocks)])
    words = set(re.findall(r"~/\w+|\w+", text))
    missing = (topics() | parameter_names() | launch_arguments()) - words
    assert not missing, f"in no document: {sorted(missing)}"


# --- commands


@every(DOCUMENTS)
def test_make_targets_and_variables_that_are_named_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for words in read(path).commands:
        if words[0] == "make":
            for word in words[1:]:
                variable, equals, _ = word.partition("=")
                pattern = rf"\$\((value )?{variable}\)" if equals else rf"^{re.escape(word)}:"
                assert re.search(pattern, makefile, re.MULTILINE), f"{path.name}: {' '.join(words)}"


@every(DOCUMENTS)
def test_commands_of_lisa_that_are_named_exist(path: Path) -> None:
    for words in read(path).commands:
        if words[0] == "lisa" and len(words) > 1 and not words[1].isupper() and not words[1].startswith("-"):
            assert words[1] in COMMANDS, f"{path.name}: {' '.join(words)}"
            given = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
            unknown = {option for option in given if not re.search(rf"{option}\b", options(words[1]))}
            assert not unknown, f"{path.name}: {' '.join(words)}"


@every(DOCUMENTS)
def test_scripts_that_are_named_exist_with_their_options(path: Path) -> None:
    for words in read(path).commands:
        if words[0] != "python" or len(words) == 1:
            continue
        if words[1] == "-m":
            assert find_spec(words[2]), f"{path.name}: {' '.join(words)}"
        elif words[1].endswith(".py"):
            script = ROOT / words[1]
            assert script.exists(), f"{path.name}: {' '.join(words)}"
            for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
                assert f'"{option}"' in script.read_text(), f"{path.name}: {' '.join(words)} has no {option}"


@every(DOCUMENTS)
def test_ros2_starts_what_is_installed(path: Path) -> None:
    for words in read(path).commands:
        if words[:3] == ["ros2", "launch", "lisa_ros"]:
            assert (ROOT / "launch" / words[3]).exists(), f"{path.name}: {' '.join(words)}"
        if words[:3] == ["ros2", "run", "lisa_ros"]:
            assert (ROOT / "scripts" / words[3]).exists(), f"{path.name}: {' '.join(words)}"


# --- the README's own commands, run


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as a newcomer's: a photo, and a model under the name that the README uses."""
    with Image.open(ROOT / "demo/scene.jpg") as picture:
        picture.save(tmp_path / "photo.jpg")
    for name in ("LISA-7B-v1", "qwen3-vl-2b+sam2.1-tiny"):
        shutil.copytree(model_folder(), tmp_path / name)
    return tmp_path


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=limit(280),
        check=False,
    )


README = ROOT / "README.md"
OFFLINE = [
    words for words in commands_in(read(README).lines) if words[:2] in (["lisa", "segment"], ["lisa", "inspect"])
]


@pytest.mark.parametrize("words", OFFLINE, ids=" ".join)
def test_commands_of_the_readme_work(words: list[str], desk: Path) -> None:
    done = run(["-m", "lisa_ros.cli", *words[1:]], desk)
    assert done.returncode in (0, 3), done.stdout + done.stderr  # 3: nothing found, an answer too
    if "--out" in words and done.returncode == 0:
        assert (desk / words[words.index("--out") + 1]).exists()


@pytest.mark.parametrize("path", [README, ROOT / "docs/python_api.md"], ids=["README.md", "python_api.md"])
def test_python_of_the_documents_works(path: Path, desk: Path) -> None:
    """On the CPU and with the demo model under the large one's name; blocks of one document go on from each other."""
    code = "\n".join(block.text for block in read(path).blocks if block.language == "python")
    assert "load_engine(" in code
    load = "import numpy; from PIL import Image; rgb = numpy.asarray(Image.open('photo.jpg').convert('RGB'))\n"
    show = "\nassert answer.text and answer.regions[0].mask.area and 0 < answer.regions[0].score <= 1"
    code = code.replace('"cuda"', '"cpu"').replace("demo/scene.jpg", "photo.jpg")  # desk has this picture by this name
    done = run(["-c", load + code + show], desk)
    assert done.returncode == 0, done.stderr


def test_every_status_has_a_cure() -> None:
    """docs/troubleshooting.md has a row for each status that is not SUCCESS."""
    text = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    rows = set(re.findall(r"^\| ([A-Z_]+) \|", text, re.MULTILINE))
    assert {status.name for status in Status} - rows == {"SUCCESS"}


def test_the_interfaces_of_the_readme_are_those_of_the_reference() -> None:
    """Topics, services and the action of docs/interfaces.md; those of vision_msgs are optional and left out."""
    sections = (ROOT / "docs/interfaces.md").read_text("utf-8").split("\n## ")
    chosen = [section for section in sections if section.split("\n")[0] in ("In", "Out", "Ask")]
    reference = set(re.findall(r"^\| `([~/\w]+)` \|", "\n".join(chosen), re.MULTILINE))
    table = re.search(r"^\| name \| type \|.*\n(?:\|.*\n)+", README.read_text("utf-8"), re.MULTILINE)
    assert table
    first_column = " ".join(row.split("|")[1] for row in table[0].splitlines()[2:])
    assert set(re.findall(r"`([~/\w]+)`", first_column)) == reference


def test_the_size_of_the_demo_model_in_the_readme_is_what_inspect_computes() -> None:
    report = inspect(model_folder())
    row = re.search(
        r"^\| bundled demo model \| (\d+) MB \| (\d+) MB in fp32 \|", README.read_text("utf-8"), re.MULTILINE
    )
    assert row
    assert int(row[1]) == round(report.size / 1e6)
    assert int(row[2]) == round(report.memory["fp32"].weights / 1e6)


def test_the_index_lists_every_document() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    names = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert {name for name in names if f"]({name})" not in index} <= set(FOR_THE_DEMO_MODEL)
