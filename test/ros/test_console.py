"""The web console in a real browser, with a real node over DDS: what an operator sees and does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from console_page import Browser, ConsoleProcess, Tab, chromium, coloured, iou
from film import Film
from machine_speed import limit
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from robot import REPOSITORY, SIZE, TRUTH, Client, NodeProcess, pixels_of, scene, stamped
from sensor_msgs.msg import CompressedImage

from lisa_ros.data.reasonseg import read_example
from lisa_ros.msg import Chosen, Segmentation

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
TOKEN = "a-token-that-nobody-guesses"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TO_LEFT = np.zeros(SIZE, bool)
TO_LEFT[150:220, 20:90] = True
# The smallest side of what can be pressed, in pixels. Text links and check boxes have a label of that size around them.
SMALL_TARGETS = """() => [...document.querySelectorAll('button, input, select, summary')]
    .filter(one => one.checkVisibility() && one.type !== 'checkbox')
    .map(one => [one.id || one.textContent, one.getBoundingClientRect()])
    .filter(([, box]) => box.width < 44 || box.height < 44)
    .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def robot(launch: Callable[..., Client]) -> Client:
    """Camera and node."""
    client = launch()
    client.ready()
    client.listen("chosen", Chosen, LATCHED)
    return client


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory, robot: Client) -> Iterator[Callable[..., ConsoleProcess]]:
    """serve(**parameters) -> a console for the node; all are stopped after the module."""
    started = []

    def serve(**parameters: Any) -> ConsoleProcess:
        started.append(ConsoleProcess(tmp_path_factory.mktemp("console"), robot.lisa.namespace, **parameters))
        return started[-1]

    yield serve
    for console in started:
        assert console.stop() in (0, -signal.SIGKILL), console.said()
        assert "Traceback" not in console.said()


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def console(serve: Callable[..., ConsoleProcess], examples: Path) -> ConsoleProcess:
    return serve(save_examples=examples)


@pytest.fixture
def visit(browser: Browser, robot: Client) -> Iterator[Callable[..., Tab]]:
    """visit(url) -> a new tab; none may have asked for anything elsewhere."""
    tabs = []
    robot.ready()
    robot.view = scene()

    def visit(url: str, **context: Any) -> Tab:
        tabs.append(Tab(browser, robot, url, **context).open())
        return tabs[-1]

    yield visit
    robot.view = None
    for tab in tabs:
        tab.close()


@pytest.fixture
def tab(visit: Callable[..., Tab], console: ConsoleProcess) -> Tab:
    return visit(console.url).ready()


# --- commands and masks


def test_text_streams_before_the_result_and_the_mask_lies_at_its_place(tab: Tab, robot: Client) -> None:
    tab.type("the box slowly, echo")
    tab.shows("#question", "the box slowly, echo")  # the answer of an earlier command is shown until then
    tab.shows("#text", "Sure")
    assert not tab.hidden("#stop"), "the text came with the result, not before"
    assert not [one for one in robot.heard["result"] if one.command == "the box slowly, echo"]
    tab.wait(lambda: iou(coloured(tab.canvas()), TRUTH) > 0.9, "mask on the canvas while the answer is written")
    assert not tab.hidden("#stop"), "the mask came with the result, not before"
    tab.wait(lambda: tab.hidden("#stop"), "result")
    assert tab.text("#stage").startswith("found")
    assert iou(coloured(tab.canvas()), TRUTH) > 0.9
    assert tab.page.get_attribute("#text .mention", "data-label") == "1"


def test_a_mask_is_drawn_over_its_own_picture(tab: Tab, robot: Client) -> None:
    tab.type("a slow look at the box")
    tab.shows("#question", "a slow look at the box")  # the answer of an earlier command is shown until then
    tab.shows("#text", "Sure")
    robot.view = scene(truth=TO_LEFT)  # the thing has moved while the answer is written
    tab.wait(lambda: tab.hidden("#stop"), "result")
    pixels = tab.canvas()
    assert iou(coloured(pixels), TRUTH) > 0.9
    assert pixels[TO_LEFT].max() < 60, "the mask of an older picture lies on a newer one"
    tab.key("l")
    tab.wait(lambda: tab.sees(TO_LEFT) and not coloured(tab.canvas()).any(), "live picture")


def test_escape_cancels(tab: Tab, robot: Client) -> None:
    tab.type("something slow to cancel")
    tab.shows("#question", "something slow to cancel")  # the answer of an earlier command is shown until then
    tab.shows("#text", "Sure")
    tab.page.keyboard.press("Escape")
    tab.shows("#stage", "stopped")
    results = robot.heard["result"]
    tab.wait(lambda: any(one.command == "something slow to cancel" for one in results), "result")
    (result,) = (one for one in results if one.command == "something slow to cancel")
    assert result.status == Segmentation.CANCELED


def test_one_of_two_masks_is_chosen_by_key_chip_and_picture(tab: Tab, robot: Client) -> None:
    assert tab.ask("the box twice").startswith("found")
    assert [chip.split()[0] for chip in tab.chips()] == ["1", "2"]
    left, right = np.split(coloured(tab.canvas()), 2, axis=1)
    assert iou(left, TRUTH[:, :160]) > 0.7  # the number covers some of it
    assert iou(right, TRUTH[:, 160:]) > 0.7

    def chosen(label: int) -> Chosen:
        heard = robot.heard["chosen"]
        tab.wait(lambda: heard and heard[-1].mask.label == label, f"mask {label} on ~/chosen")
        tab.shows(f"#chips [data-label='{label}']", "chosen")
        assert tab.page.get_attribute(f"#chips [data-label='{label}']", "aria-pressed") == "true"
        return heard[-1]

    tab.key("2")
    message = chosen(2)
    truth = TRUTH.copy()
    truth[:, :160] = False
    roi = message.mask.roi
    crop = truth[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width]
    assert (pixels_of(message.mask.pixels) > 0).sum() == crop.sum() == truth.sum()
    assert message.command == "the box twice"
    tab.page.click("#chips [data-label='1']")
    chosen(1)
    tab.page.mouse.click(*tab.point(200, 70))
    chosen(2)
    late = robot.node.create_subscription(Chosen, f"{robot.lisa.name}/chosen", robot.heard["chosen"].append, LATCHED)
    count = len(robot.heard["chosen"])
    tab.wait(lambda: len(robot.heard["chosen"]) > count, "the chosen mask for one who comes late")
    robot.node.destroy_subscription(late)


def test_points_and_box_go_with_the_command(tab: Tab, robot: Client) -> None:
    tab.page.click("#tool-point")
    tab.shows("#caption", "held")
    tab.page.mouse.click(*tab.point(150, 90))
    tab.page.keyboard.down("Shift")
    tab.page.mouse.click(*tab.point(40, 200))
    tab.page.keyboard.up("Shift")
    tab.page.click("#tool-box")
    tab.page.mouse.move(*tab.point(100, 60))
    tab.page.mouse.down()
    tab.page.mouse.move(*tab.point(220, 120))
    tab.page.mouse.up()
    tab.ask("this, not that")
    results = robot.heard["result"]
    tab.wait(lambda: results[-1].command == "this, not that", "result")
    asked = results[-1]
    if asked.status == Segmentation.INVALID_COMMAND:  # an engine that takes none says so
        assert "point" in tab.text("#remark") or "box" in tab.text("#remark")
        return
    assert asked.status == Segmentation.SUCCESS, asked.message
    said = tab.text("#text")
    assert "1, 0" in said
    assert "box" in said


def test_a_follow_up_is_in_the_session_of_its_tab(visit: Callable[..., Tab], console: ConsoleProcess) -> None:
    first, second = visit(console.url).ready(), visit(console.url).ready()
    first.ask("the box")
    first.shows("#text", "turn 0")
    first.ask("and this box")
    first.shows("#text", "turn 1")
    second.ask("another box")
    second.shows("#text", "turn 0")


def test_two_tabs_see_each_others_commands(visit: Callable[..., Tab], console: ConsoleProcess) -> None:
    first, second = visit(console.url).ready(), visit(console.url).ready()
    first.ask("seen by both")
    second.shows("#history", "seen by both")
    second.shows("#question", "seen by both")
    second.shows("#stage", "asked by")
    second.wait(lambda: iou(coloured(second.canvas()), TRUTH) > 0.9, "mask of the other tab's answer")


def test_commands_of_other_programs_appear(tab: Tab, robot: Client) -> None:
    goal = robot.goal("asked by a slow program")
    tab.shows("#question", "asked by a slow program")
    tab.shows("#stage", "asked by action")
    goal.cancel()
    goal.result()
    tab.shows("#stage", "stopped")


def test_followed_masks_lie_on_live_pictures(visit: Callable[..., Tab], console: ConsoleProcess, robot: Client) -> None:
    tab = visit(console.url).ready()
    robot.view = None
    film = Film(robot)
    try:
        film.run(0.5)
        assert tab.ask("the thing").startswith("found")
        tab.key("l")
        tab.shows("#caption", "live, followed")
        # The page says which picture it has drawn; the film knows where its thing was in it.
        tab.page.evaluate("window.addEventListener('drawn', event => { window.drawn = event.detail; })")

        def share() -> float:
            found = tab.page.evaluate("[window.drawn, document.getElementById('canvas').toDataURL('image/png')]")
            truth = film.truth.get(divmod(int(found[0] or 0), 10**9))
            return 0.0 if truth is None else iou(orange(tab.decode(found[1])), truth)

        tab.wait(lambda: share() > 0.7, "followed mask at the place of the thing in its own picture")
    finally:
        film.close()
        tab.page.click("#clear")


def orange(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: where the film (its thing is green to blue) has the first mask's colour over it."""
    return pixels[..., 0].astype(int) - pixels[..., 2] > 40


# --- history, connection


def test_the_history_survives_a_reload(tab: Tab) -> None:
    tab.ask("remember this box")
    count = tab.entries()
    tab.page.reload()
    tab.ready()
    tab.wait(lambda: tab.entries() == count, "history")
    tab.shows("#history", "remember this box")
    tab.wait(lambda: tab.page.locator("#history img").count() > 0, "thumbnails")
    tab.page.click("#history button:has-text('remember this box')")
    tab.wait(lambda: iou(coloured(tab.canvas()), TRUTH) > 0.9, "picture and mask from the history")
    tab.page.focus("#command")
    tab.page.keyboard.press("ArrowUp")
    assert tab.page.input_value("#command") == "remember this box"


def test_a_page_finds_a_console_that_was_killed_and_started_again(
    visit: Callable[..., Tab], serve: Callable[..., ConsoleProcess]
) -> None:
    first = serve()
    port = first.port
    tab = visit(first.url).ready()
    first.stop(signal.SIGKILL)
    tab.shows("#state-text", "no connection")
    tab.page.fill("#command", "lost words")
    tab.page.press("#command", "Enter")
    tab.shows("#problem", "no connection")
    assert tab.page.input_value("#command") == "lost words", "the words are gone and must be typed again"
    second = serve(port=port)
    assert second.port == port
    tab.ready()
    assert tab.hidden("#problem")
    assert tab.ask("the box").startswith("found")


def test_a_node_that_was_killed_and_started_again_is_said(
    tmp_path: Path, context: Any, browser: Browser, launch: Callable[..., Client]
) -> None:
    client = launch()
    client.ready()
    client.view = scene()
    console = ConsoleProcess(tmp_path, client.lisa.namespace)
    tab = Tab(browser, client, console.url).open()
    try:
        tab.ready()
        tab.type("hang")
        tab.shows("#stage", "reading")
        worker = client.lisa.worker
        client.lisa.process.kill()
        client.lisa.process.wait()
        if worker.is_running():
            worker.kill()
        client.lisa = NodeProcess(tmp_path, beside=client.lisa)
        tab.shows("#stage", "the node ended")
        tab.shows("#remark", "ask again")
        tab.ready()
        assert tab.ask("the box").startswith("found")
    finally:
        tab.close()
        console.stop()


def test_a_console_without_a_node_says_so(tmp_path: Path, visit: Callable[..., Tab], robot: Client) -> None:
    console = ConsoleProcess(tmp_path, robot.lisa.namespace, node="/nowhere/lisa")
    try:
        tab = visit(console.url)
        tab.shows("#state-text", "there is no node /nowhere/lisa")
        tab.type("the box")
        tab.shows("#problem", "parameter node")
    finally:
        console.stop()


# --- pictures


def test_a_camera_that_stops_and_changes_its_size_is_shown(tab: Tab, robot: Client) -> None:
    def size() -> list[int]:
        return tab.page.eval_on_selector("#canvas", "canvas => [canvas.width, canvas.height]")

    assert size() == [320, 240]
    robot.view = None
    tab.shows("#state-text", f"no new picture on {robot.lisa.namespace}/image")
    robot.view = scene((1080, 1920), np.zeros((1080, 1920), bool))
    tab.wait(lambda: size() == [960, 540], "pictures of another size, reduced")
    robot.view = scene((600, 400), np.zeros((600, 400), bool))
    tab.wait(lambda: size() == [400, 600], "pictures of another shape")


def test_a_picture_that_cannot_be_shown_is_said(tab: Tab, robot: Client) -> None:
    robot.view = stamped(robot.node, scene())
    robot.view.encoding = "32FC1"
    tab.shows("#state-text", "32FC1")
    robot.view = scene()
    tab.shows("#state-text", "Hz")
    assert "32FC1" not in tab.text("#state-text")


def test_compressed_pictures_and_two_cameras(
    visit: Callable[..., Tab], serve: Callable[..., ConsoleProcess], robot: Client
) -> None:
    console = serve(cameras="[left, right]", image_transport="compressed", remap={"left/image": "left_jpeg"})
    topics = {"left_jpeg": scene(), "right/image": scene(truth=TO_LEFT)}
    publishers = {
        topic: robot.node.create_publisher(CompressedImage, topic, qos_profile_sensor_data) for topic in topics
    }

    def shoot() -> None:
        for topic, pixels in topics.items():
            message = CompressedImage(header=stamped(robot.node, pixels).header, format="jpeg")
            message.data = cv2.imencode(".jpg", pixels)[1].tobytes()
            publishers[topic].publish(message)

    timer = robot.node.create_timer(0.05, shoot)
    tab = visit(console.url)
    try:
        tab.wait(lambda: tab.sees(TRUTH), "left picture")
        assert tab.page.locator("#camera option").all_inner_texts() == ["left", "right"]
        tab.page.select_option("#camera", "right")
        tab.wait(lambda: tab.sees(TO_LEFT), "right picture")
    finally:
        robot.node.destroy_timer(timer)


# --- phone, keyboard, accessibility


def test_a_phone_has_one_column_and_large_targets(visit: Callable[..., Tab], console: ConsoleProcess) -> None:
    tab = visit(console.url, **PHONE).ready()
    assert tab.ask("the box twice").startswith("found")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    view, talk = tab.page.locator("#view").bounding_box(), tab.page.locator("#talk").bounding_box()
    assert view["y"] + view["height"] <= talk["y"]
    assert tab.page.evaluate(SMALL_TARGETS) == []
    tab.page.locator("#canvas").scroll_into_view_if_needed()
    tab.page.touchscreen.tap(*tab.point(200, 70))
    tab.shows("#chips [data-label='2']", "chosen")


def test_the_page_needs_no_mouse(tab: Tab, robot: Client) -> None:
    press = tab.page.keyboard.press
    press("/")
    tab.page.keyboard.type("the box twice, by keys")
    press("Enter")
    tab.shows("#question", "the box twice, by keys")
    tab.shows("#stage", "found")
    # Focus moves on from the command by Tab alone, until it is on the first chip.
    for _ in range(20):
        press("Tab")
        if tab.page.evaluate("document.activeElement.closest('#chips') !== null"):
            break
    press("Enter")
    tab.shows("#chips [data-label='1']", "chosen")
    assert tab.page.evaluate("document.activeElement.dataset.label") == "1", "the focus is lost"
    press("2")
    tab.shows("#chips [data-label='2']", "chosen")
    press("l")
    press("p")
    tab.shows("#caption", "held")
    press("ArrowRight")
    press("Enter")
    press("/")
    tab.page.keyboard.type("this one")
    press("Enter")
    tab.wait(lambda: any(one.command == "this one" for one in robot.heard["result"]), "answer")
    focusable = "[...document.querySelectorAll('button, input, select, summary')].filter(one => one.tabIndex < 0)"
    assert tab.page.evaluate(f"{focusable}.map(one => one.id)") == []


@pytest.mark.parametrize("device", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_violation(device: dict[str, Any], visit: Callable[..., Tab], console: ConsoleProcess) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -r requirements/test.txt")
    # A script from elsewhere needs leave of the page's own policy.
    tab = visit(console.url, bypass_csp=True, **device).ready()

    def check(state: str) -> None:
        found = axe.Axe().run(
            tab.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]}
        )
        assert found.violations_count == 0, f"{state}: {found.generate_report()}"

    check("live")
    tab.ask("the box twice")
    tab.key("1")
    tab.shows("#chips [data-label='1']", "chosen")
    tab.page.click("#settings summary")
    tab.page.click("#keys summary")
    check("with an answer")
    tab.type("refuse this")
    tab.shows("#stage", "refused")
    check("with an error")


def test_speech_becomes_a_command(visit: Callable[..., Tab], console: ConsoleProcess, browser: Browser) -> None:
    """With a recogniser in the browser's place: the real one sends sound to a server."""
    tab = visit("about:blank")
    tab.url = console.url
    tab.page.add_init_script(
        """window.SpeechRecognition = class {
            start() { setTimeout(() => this.onresult({ results: [[{ transcript: "the spoken box" }]] })); }
        };"""
    )
    tab.open().ready()
    tab.page.click("#speak")
    tab.shows("#question", "the spoken box")
    tab.shows("#stage", "found")


def test_a_live_option_is_changed(tab: Tab, robot: Client) -> None:
    tab.page.click("#settings summary")
    tab.wait(lambda: tab.page.locator("#options input[name=queue_size]").count(), "options of the node")
    tab.page.fill("#options input[name=queue_size]", "7")
    tab.page.press("#options input[name=queue_size]", "Tab")
    from rcl_interfaces.srv import GetParameters

    def value() -> int:
        request = GetParameters.Request(names=["queue_size"])
        return robot.done(robot.getter.call_async(request)).values[0].integer_value

    tab.wait(lambda: value() == 7, "changed parameter")
    tab.page.fill("#options input[name=queue_size]", "-5")
    tab.page.press("#options input[name=queue_size]", "Tab")
    tab.shows("#problem", "queue_size")
    assert value() == 7


# --- who may, and bad input


def test_only_a_page_with_the_token_gets_in(visit: Callable[..., Tab], serve: Callable[..., ConsoleProcess]) -> None:
    console = serve(token=TOKEN)
    url = console.url
    assert url.endswith(f"#token={TOKEN}")
    wrong = visit(url.replace(TOKEN, "wrong"))
    wrong.shows("#state-text", "token is wrong")
    right = visit(url).ready()
    assert TOKEN not in right.page.url
    right.page.reload()
    right.ready()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and writes nothing."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def other_site(tmp_path: Path) -> Iterator[str]:
    """Address of a page on another port: another origin."""
    (tmp_path / "index.html").write_text("<!doctype html><title>another site</title><link rel=icon href=data:,>")
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_page_of_another_site_gets_nothing(
    visit: Callable[..., Tab], console: ConsoleProcess, other_site: str
) -> None:
    tab = visit(other_site)
    socket = console.url.replace("http", "ws", 1) + "ws"
    opened = tab.page.evaluate(
        """url => new Promise(resolve => {
            const socket = new WebSocket(url);
            socket.onopen = () => resolve("open");
            socket.onerror = () => resolve("refused");
        })""",
        socket,
    )
    assert opened == "refused"
    (complaint,) = tab.complaints
    assert "403" in complaint
    tab.requests.remove(socket)
    tab.complaints.clear()


def test_markup_and_control_characters_stay_text(tab: Tab) -> None:
    words = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> echo & "quotes" \U0001f600'
    assert tab.ask(words).startswith("found")
    tab.shows("#text", '<img src=x onerror="window.hacked=1">')
    assert "<script>" in tab.text("#question")
    assert tab.page.locator("#text img, #question img, #history img[src='x']").count() == 0
    assert tab.page.evaluate("window.hacked") is None
    # The other direction of writing would show a command that is not the one that is sent.
    assert tab.ask("the \u202exob\x1b[2J").startswith("command refused")
    assert tab.text("#question") == r"the \u202exob\x1b[2J"


def test_a_hundred_thousand_characters_are_answered_in_words(tab: Tab) -> None:
    tab.type("a" * 100_000)
    tab.shows("#problem", "100000 characters; at most")
    assert tab.ask("the box").startswith("found")
    assert tab.hidden("#problem")


def test_an_empty_command_and_a_refused_one_say_what_to_do(tab: Tab) -> None:
    assert tab.ask("refuse this").startswith("command refused")
    tab.shows("#remark", "cannot be used")
    assert "nothing" in tab.ask("nothing like it") or tab.text("#stage").startswith("not found")


# --- correct and learn


@pytest.mark.skipif(find_spec("peft") is None, reason="needs what training needs: pip install 'lisa_ros[train]'")
def test_three_corrections_train_and_are_evaluated(tab: Tab, examples: Path, tmp_path: Path) -> None:
    tab.shows("#saving", "kept as examples")

    def saved(command: str) -> np.ndarray:
        tab.shows("#saving", "kept as an example")
        found = [one for one in map(read_example, sorted(examples.glob("*.png"))) if one.texts == (command,)]
        assert len(found) == 1
        return found[0].truth > 0

    tab.ask("the right box")
    tab.key("+")
    assert iou(saved("the right box"), TRUTH) == 1.0
    tab.ask("the box to mend")
    tab.wait(lambda: tab.page.is_enabled("#tool-brush"), "picture to mend")
    tab.key("m")
    tab.page.mouse.move(*tab.point(30, 180))
    tab.page.mouse.down()
    tab.page.mouse.move(*tab.point(60, 180), steps=20)
    tab.page.mouse.up()
    tab.page.click("#save")
    mended = saved("the box to mend")
    assert mended[TRUTH].mean() > 0.99
    assert mended[180, 30:60].all()
    assert TRUTH.sum() < mended.sum() < TRUTH.sum() + 1500
    tab.ask("a box that is not there")
    tab.page.click("#nothing")
    assert not saved("a box that is not there").any()

    kept = tmp_path / "kept"
    kept.mkdir()
    for file in examples.iterdir():
        (kept / file.name).write_bytes(file.read_bytes())
    recipe = {
        "recipe": "lisa",
        "run": str(tmp_path / "run"),
        "start": str(REPOSITORY / "test" / "golden" / "ckpt"),
        "data": [{"kind": "reasonseg", "path": str(kept), "questions": 1}],
        "device": "cpu",
        "steps": 1,
        "batch_size": 1,
        "accumulation": 1,
        "workers": 0,
    }
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(recipe))
    report = tmp_path / "report.json"
    evaluate = ["evaluate", "--data", str(kept), "--model", str(REPOSITORY / "test" / "golden" / "ckpt")]
    for arguments in (["train", "--config", str(config)], [*evaluate, "--device", "cpu", "--json", str(report)]):
        done = subprocess.run(
            [sys.executable, "-m", "lisa_ros.cli", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            timeout=limit(120),
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(report.read_text())
    assert (figures["present"]["n"], figures["absent"]["n"]) == (2, 1)
