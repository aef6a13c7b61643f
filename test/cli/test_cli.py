"""The ``lisa`` command: starting, segmenting, pictures of every kind, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lisa_ros
from lisa_ros import __version__, cli
from lisa_ros.cli import main
from lisa_ros.cli.segment import _Stream
from lisa_ros.engine.api import crop_mask
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import ImageError
from lisa_ros.perception.overlay import draw_overlay
from lisa_ros.perception.photo import read_photo

GOLDEN = Path(__file__).parents[1] / "golden"
PHOTO = GOLDEN / "wide.png"
FOUND = "Where is the drink? Please output segmentation mask."


def _absent() -> tuple[Path, str]:
    """A picture and a command that the golden model answers without [SEG]."""
    cases = json.loads((GOLDEN / "cases.json").read_text())["chat_cases"]
    case = next(case for case in cases if case["num_seg"] == 0)
    return GOLDEN / case["image"], case["user_prompt"]


_LOADED = pytest.StashKey[dict]()


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Loading and encoding are real, and done once for all tests."""
    load, encode = lisa_ros.load_engine, SupportedEngine.encode
    cache = request.session.stash.setdefault(_LOADED, {})

    def load_once(model: str, device: str, precision: str, options: dict, progress: object) -> SupportedEngine:
        key = (model, device, precision, *sorted(options.items()))
        if key not in cache:
            cache[key] = load(model, device, precision, options, progress)
        return cache[key]

    def encode_once(self: SupportedEngine, rgb: np.ndarray) -> object:
        key = (id(self), rgb.tobytes())
        if key not in cache:
            cache[key] = encode(self, rgb)
        return cache[key]

    monkeypatch.setattr(lisa_ros, "load_engine", load_once, raising=False)
    monkeypatch.setattr(SupportedEngine, "encode", encode_once)


def segment(*arguments: object) -> int:
    return main(["segment", "--model", str(GOLDEN / "ckpt"), "--device", "cpu", *map(str, arguments)])


# --- starting ---


def test_help_and_version_start_without_torch(repository: Path) -> None:
    check = (
        "import sys\nfrom lisa_ros.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'transformers', 'cv2', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    for option, expected in (("--help", "inspect"), ("--version", __version__)):
        done = subprocess.run([sys.executable, "-c", check, option], cwd=repository, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not cli._exists(cli.COMMANDS[name][0]):
        pytest.skip(f"lisa {name} is not part of this installation")
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: lisa {name}" in capsys.readouterr().out


def test_help_names_every_template_and_precision(capsys: pytest.CaptureFixture[str]) -> None:
    from lisa_ros.lisa.model.quantize import PRECISIONS
    from lisa_ros.lisa.prompt import TEMPLATES

    with pytest.raises(SystemExit):
        main(["segment", "--help"])
    text = capsys.readouterr().out
    assert [name for name in (*PRECISIONS, *TEMPLATES) if name not in text] == []


def test_a_missing_dependency_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_module(name: str) -> None:
        raise ModuleNotFoundError("No module named 'mujoco'", name="mujoco")

    monkeypatch.setattr(cli, "import_module", no_module)
    assert main(["inspect", "x"]) == 1
    assert "the Python module 'mujoco' is missing" in capsys.readouterr().err


# --- segmenting ---


def test_a_command_is_answered_on_the_terminal_and_in_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overlay, mask, document = tmp_path / "overlay.jpg", tmp_path / "mask.png", tmp_path / "answers.json"
    assert segment(PHOTO, FOUND, "--verbatim", "--out", overlay, "--mask", mask, "--json", document) == 0
    printed = capsys.readouterr().out
    report = json.loads(document.read_text())
    (answer,) = report["answers"]
    assert answer["answer"] in printed
    assert f"score {answer['masks'][0]['score']:.2f}" in printed
    assert (report["width"], report["height"], report["precision"]) == (600, 150, "fp32")
    pixels = np.asarray(Image.open(mask))
    assert pixels.shape == (150, 600)
    assert set(np.unique(pixels)) == {0, 255}
    bits = np.load(GOLDEN / "wide_0.npz")
    golden = np.unpackbits(bits["masks_bits"])[: np.prod(bits["masks_shape"])].reshape(bits["masks_shape"])
    assert np.mean((pixels > 0) == golden.any(0)) > 0.999
    assert Image.open(overlay).size == (600, 150)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answers.json", "mask.png", "overlay.jpg"]


def test_a_thing_that_is_not_there_has_its_own_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    photo, command = _absent()
    assert segment(photo, command, "--verbatim") == 3
    assert "not found" in capsys.readouterr().out


def test_several_commands_share_one_encoded_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoded = []
    encode = SupportedEngine.encode
    monkeypatch.setattr(SupportedEngine, "encode", lambda self, rgb: encoded.append(rgb.shape) or encode(self, rgb))
    assert segment(PHOTO, FOUND, "the cup", "--out", tmp_path / "overlay.png", "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert encoded == [(150, 600, 3)]
    assert [answer["command"] for answer in report["answers"]] == [FOUND, "the cup"]
    assert report["answers"][1]["timings"]["encode_s"] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["overlay-1.png", "overlay-2.png"]


def test_an_interactive_session_is_one_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    histories = []
    real = SupportedEngine.ask

    def spy(self, encoded, ask, **options):
        histories.append(len(ask.history.turns))
        return real(self, encoded, ask, **options)

    monkeypatch.setattr(SupportedEngine, "ask", spy)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where is the drink?\n\nno, the other one\n" + "x " * 5000 + "\n"))
    segment(PHOTO, "--interactive")
    assert histories == [0, 1, 2]
    assert "send a shorter one" in capsys.readouterr().out


# --- any engine ---


@pytest.fixture
def blocks(tmp_path: Path) -> Path:
    """A red and a blue block on grey."""
    pixels = np.full((60, 100, 3), 128, np.uint8)
    pixels[10:30, 20:50], pixels[35:55, 60:90] = (220, 20, 20), (20, 40, 220)
    Image.fromarray(pixels).save(tmp_path / "blocks.png")
    return tmp_path / "blocks.png"


def answers_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict]]:
    """Exit code and answers of the colour engine."""
    code = main(["segment", *map(str, arguments), "--model", "colour_engine:load", "--json", "-"])
    return code, json.loads(capsys.readouterr().out)["answers"]


@pytest.fixture
def colour_engine(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "examples")


@pytest.mark.usefixtures("colour_engine")
def test_an_engine_in_one_file_answers(blocks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, (answer,) = answers_of(capsys, blocks, "the red one and the blue one")
    assert (code, answer["found"], answer["absent"]) == (0, True, [])
    assert [mask["phrase"] for mask in answer["masks"]] == ["red thing", "blue thing"]
    ((begin, end),) = answer["masks"][1]["spans"]
    assert answer["answer"][begin:end] == "blue thing"
    assert answer["masks"][0]["box_px"] == {"x": 20, "y": 10, "width": 30, "height": 20}
    assert answer["masks"][0]["seg_probability"] is None
    assert answer["timings"]["total_s"] > 0


@pytest.mark.usefixtures("colour_engine")
def test_targets_replace_the_command_and_absent_ones_are_listed(
    blocks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, (answer,) = answers_of(capsys, blocks, "--target", "red", "--target", "green")
    assert (code, answer["found"], answer["absent"]) == (3, True, ["green"])
    assert answer["answer"] == "This is the red thing.\nThere is no green thing."
    assert main(["segment", str(blocks), "--target", "red", "--target", "green", "--model", "colour_engine:load"]) == 3
    printed = capsys.readouterr().out
    assert "mask 1 (red): score" in printed
    assert "not there: green" in printed


@pytest.mark.usefixtures("colour_engine")
def test_a_warning_names_a_command_that_is_ignored_beside_targets(
    blocks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", str(blocks), "the blue one", "--target", "red", "--model", "colour_engine:load"]) == 0
    assert "colours ignores the command beside --target" in capsys.readouterr().err


@pytest.mark.usefixtures("colour_engine")
def test_options_reach_the_engine(blocks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, (answer,) = answers_of(capsys, blocks, "red", "--option", "smallest=0.2")
    assert (code, answer["answer"]) == (3, "There is no red thing.")
    assert main(["segment", str(blocks), "red", "--model", "colour_engine:load", "--option", "smallest=two"]) == 1
    assert "option smallest is 'two'" in capsys.readouterr().err
    assert main(["segment", str(blocks), "red", "--model", "colour_engine:load", "--vision-tower", "clip"]) == 1
    assert "engine 'colours' has no option 'vision_tower'; its options: smallest" in capsys.readouterr().err


POINTING = """
from lisa_ros.engine.api import POINTS, Answer, EngineInfo, Region, crop_mask
import numpy as np


class Pointing:
    info = EngineInfo("pointing", capabilities=frozenset({POINTS}))

    def encode(self, rgb):
        return rgb.shape[:2]

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        mask = np.zeros(encoded, bool)
        for (x, y), label in zip(ask.points, ask.point_labels):
            mask[int(y), int(x)] = label
        if ask.box:
            x, y, width, height = map(int, ask.box)
            mask[y : y + height, x : x + width] = True
        return Answer("", [Region(crop_mask(mask), 1.0)])


def load(*, model, device, precision, options, progress):
    return Pointing()
"""


def test_points_and_a_box_reach_an_engine_that_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pointing_engine.py").write_text(POINTING)
    monkeypatch.syspath_prepend(tmp_path)
    model = ("--model", "pointing_engine:load", "--json", "-")
    assert main(["segment", str(PHOTO), "--point", "3,4", "--point", "9,4,1", "--point", "30,40,0", *model]) == 0
    (mask,) = json.loads(capsys.readouterr().out)["answers"][0]["masks"]
    assert (mask["area_px"], mask["box_px"]) == (2, {"x": 3, "y": 4, "width": 7, "height": 1})
    assert main(["segment", str(PHOTO), "--box", "5,6,7,8", *model]) == 0
    (mask,) = json.loads(capsys.readouterr().out)["answers"][0]["masks"]
    assert mask["box_px"] == {"x": 5, "y": 6, "width": 7, "height": 8}


@pytest.mark.parametrize("wrong", [("--point", "3"), ("--point", "3,4,2"), ("--point", "a,b"), ("--box", "1,2,3")])
def test_a_malformed_point_or_box_is_wrong_usage(wrong: tuple, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        segment(PHOTO, *wrong)
    assert f"'{wrong[1]}'" in capsys.readouterr().err


def test_without_a_model_one_line_warns_of_the_demo_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", str(PHOTO), "the cup", "--device", "cpu"]) in (0, 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert "the bundled demo model knows only rendered tables" in line
    assert "'lisa fetch xinlai/LISA-7B-v1'" in line
    segment(PHOTO, "the cup")
    assert capsys.readouterr().err == ""


def test_an_engine_without_torch_is_served_without_torch(repository: Path, blocks: Path) -> None:
    check = (
        "import sys\nfrom lisa_ros.cli import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'transformers', 'rclpy'} & set(sys.modules), sorted(sys.modules)"
    )
    command = [sys.executable, "-c", check, "segment", str(blocks), "the red one", "--model", "colour_engine:load"]
    environment = os.environ | {"PYTHONPATH": f"{repository}:{repository / 'examples'}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- input, output, mistakes ---


def test_a_picture_comes_from_standard_input_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(PHOTO.read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin())
    assert segment("-", FOUND, "--verbatim") == 0


WITHOUT_POINTS = ("--model", "standin:load")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.jpg", "x"), "there is no file missing.jpg"),
        ((GOLDEN, "x"), "is a folder"),
        ((GOLDEN / "cases.json", "x"), "its format is not known; JPEG"),
        ((PHOTO,), "no command"),
        ((PHOTO, " "), "a command is empty"),
        ((PHOTO, "x", "--out", "nowhere/overlay.png"), "there is no folder nowhere"),
        ((PHOTO, "x", "--out", "overlay.xyz"), "'.xyz' is not a format that can be written"),
        ((PHOTO, "x", "--out", PHOTO), "would overwrite the picture"),
        ((PHOTO, "x", "--mask", "mask.jpg"), "use .png"),
        ((PHOTO, "x", "--json", "nowhere/a.json"), "there is no folder nowhere"),
        ((PHOTO, "x", "--mask", "a.png", "--out", "../{folder}/a.png"), "--out and --mask name one file"),
        ((PHOTO, "x", "--json", PHOTO), "would overwrite the picture"),
        ((PHOTO, "x", "--precision", "int3"), "precision 'int3' is not known; choose one of"),
        ((PHOTO, "x", "--device", "cuda:9"), "device 'cuda:9' does not exist"),
        ((PHOTO, "x", "--conversation", "y"), "conversation 'y' is not known; choose one of"),
        ((PHOTO, "x", "--option", "conversation"), "option 'conversation' is not name=value"),
        (
            (PHOTO, "x", "--option", "size=3"),
            "engine 'lisa' has no option 'size'; its options: coarse_regions, conversation, family",
        ),
        ((PHOTO, "x", "--conversation", "v1", "--option", "conversation=v1"), "is given by --option and by --conv"),
        ((PHOTO, "x", "--model", "nowhere.engines:load"), "engine 'nowhere.engines:load' cannot be imported"),
        ((PHOTO, "x", "--model", "grpc://robot"), "no engine serves 'grpc://robot'; installed engines: lisa"),
        ((PHOTO, "x", *WITHOUT_POINTS, "--point", "3,4"), "takes no points; it supports"),
        ((PHOTO, *WITHOUT_POINTS, "--box", "3,4,5,6"), "takes neither points nor a box; it supports"),
        ((PHOTO, "--box", "3,4,5,6"), "the command is empty; say what to find"),
        ((PHOTO, "--target", " "), "a target is ' '; each must be a name"),
        ((PHOTO, "--target", "cup", "--interactive"), "leave out --target"),
        ((PHOTO, "x " * 5000), "send a shorter one"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    arguments: tuple, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert segment(*(str(argument).replace("{folder}", tmp_path.name) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_picture_of_too_many_pixels_is_to_be_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert segment(PHOTO, "x") == 1
    error = capsys.readouterr().err
    assert "has too many pixels" in error and "shrink it first" in error and "JPEG" not in error


def test_a_folder_that_may_not_be_written_to_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    monkeypatch.setattr(lisa_ros, "load_engine", lambda *_, **__: pytest.fail("the model was loaded"))
    assert segment(PHOTO, "x", "--json", tmp_path / "a.json") == 1
    assert f"{tmp_path} may not be written to" in capsys.readouterr().err


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert segment(PHOTO, FOUND, "--verbatim", "--json", pipe) == 0
    assert json.loads(os.read(reader, 1 << 16))["answers"][0]["found"]
    os.close(reader)
    assert pipe.is_fifo()


def test_an_interrupt_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(self: Image.Image, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", save)
    (tmp_path / "mask.png").write_bytes(b"older")
    assert segment(PHOTO, FOUND, "--mask", tmp_path / "mask.png") == 130
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("mask.png", b"older")]


def test_a_growing_answer_is_shown_once() -> None:
    from lisa_ros.engine.api import Stage, Token

    shown: list[str] = []
    stream = _Stream(shown.append)
    texts = ("It is", "It is \N{REPLACEMENT CHARACTER}", "It is ☕, [SEG]", "It is ☕, [SEG]. ")
    for event in (Stage("reading"), *map(Token, texts)):
        stream(event)
    stream.finish("It is ☕, [SEG].")
    assert "".join(shown) == "It is ☕, [SEG].\n"


def test_numbers_of_masks_have_the_colours_of_the_overlay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number is painted once its mask is known; a number that names no mask is text."""
    from lisa_ros.engine.api import Region, Regions, Token, crop_mask
    from lisa_ros.perception.overlay import COLOURS

    monkeypatch.delenv("NO_COLOR", raising=False)
    whole = "the cup [1], the spoon [2], the cup [1], item [7]."
    region = Region(crop_mask(np.ones((2, 2), bool)))
    events = [Token("the cup [1]"), Regions([region]), Token("the cup [1], the spoon [2]"), Regions([region])]
    stream = _Stream()
    for event in events:
        stream(event)
    stream.finish(whole)
    painted = [f"\x1b[1;38;2;{r};{g};{b}m[{n}]\x1b[0m" for n, (r, g, b) in enumerate(COLOURS[:2], 1)]
    expected = whole.replace("[1]", painted[0]).replace("[2]", painted[1]) + "\n"
    assert capsys.readouterr().out == expected
    monkeypatch.setenv("NO_COLOR", "1")
    plain = _Stream()
    for event in events:
        plain(event)
    plain.finish(whole)
    assert capsys.readouterr().out == f"{whole}\n"


# --- pictures ---


def _gradient() -> np.ndarray:
    return np.linspace(0, 255, 20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)


def test_the_cameras_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    Image.fromarray(_gradient()).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_photo(str(tmp_path / "turned.png")), np.rot90(_gradient(), -1))


def test_sixteen_bits_of_grey_are_scaled_from_their_whole_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535], [32896, 257]], np.uint16)).save(tmp_path / "deep.png")
    assert read_photo(str(tmp_path / "deep.png"))[:, :, 0].tolist() == [[0, 255], [128, 1]]


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (200, 100, 50, 255)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    rgb = read_photo(str(tmp_path / "clear.png"))
    assert rgb[0, 0].tolist() == [200, 100, 50]
    assert rgb[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_every_common_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    Image.fromarray(_gradient()).convert("RGB").convert("P" if mode == "PA" else mode).convert(mode).save(
        tmp_path / "any.tif"
    )
    rgb = read_photo(str(tmp_path / "any.tif"))
    assert (rgb.shape, rgb.dtype) == ((20, 30, 3), np.uint8)


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(PHOTO.read_bytes()[:5000])
    with pytest.raises(ImageError, match="cannot be read"):
        read_photo(str(tmp_path / "half.png"))


# --- overlay ---


def test_the_overlay_colours_masks_and_leaves_the_rest() -> None:
    rgb = np.full((120, 200, 3), 90, np.uint8)
    first, second = np.zeros((2, 120, 200), bool)
    first[60:100, 20:80] = True
    second[60:100, 120:180] = True
    drawn = draw_overlay(rgb, [crop_mask(first, 1, 0.9), crop_mask(second, 2, 0.5)])
    assert (rgb == 90).all()
    assert not np.array_equal(drawn[80, 50], drawn[80, 150])
    assert not np.array_equal(drawn[80, 50], rgb[80, 50])
    assert (drawn[110:] == 90).all()
    assert np.array_equal(draw_overlay(rgb, [crop_mask(np.zeros((120, 200), bool), 1, 0.0)]), rgb)


def test_options_may_stand_between_the_picture_and_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    scene = str(Path(__file__).parents[2] / "demo" / "scene.jpg")
    assert main(["segment", scene, "--explain", "the cup", "--json", "-", "the pot"]) == 3
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["command"] for answer in answers] == ["the cup", "the pot"]
