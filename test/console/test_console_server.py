"""The web server with a robot of the test's own, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import cv2
import numpy as np
import pytest
from fake_robot import FakeRobot
from machine_speed import limit

from lisa_console.access import Access
from lisa_console.events import Chosen, Live, Mask, Picture, Progress, Result, State
from lisa_console.history import MOST_ENTRIES
from lisa_console.hub import MOST_VIEWERS, Hub
from lisa_console.protocol import PREFIX, Kind, write_binary
from lisa_console.server import Server
from lisa_ros.data.reasonseg import read_example

TOKEN = "a-token-that-is-long-enough"


class Console:
    """A running server, its robot, and pages."""

    def __init__(self, robot: FakeRobot, hub: Hub, server: Server) -> None:
        self.robot, self.hub, self.server = robot, hub, server
        self.origin = f"http://127.0.0.1:{server.port}"

    def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """work(session): with an HTTP client."""

        async def main() -> Any:
            async with aiohttp.ClientSession() as session:
                return await asyncio.wait_for(work(session), limit(20))

        return asyncio.run(main())

    def page(self, session: Any, **headers: str) -> Any:
        return session.ws_connect(f"{self.origin}/ws", headers={"Origin": self.origin, **headers}, max_msg_size=0)

    async def enter(self, session: Any, token: str = "", visible: bool = True) -> Any:
        page = await self.page(session)
        await page.send_json({"type": "hello", "token": token})
        assert (await page.receive_json())["type"] == "hello"
        for wanted in ("state", "options", "history"):
            assert (await page.receive_json())["type"] == wanted
        await page.send_json({"type": "view", "camera": "", "visible": visible})
        return page


@pytest.fixture
def start() -> Iterator[Callable[..., Console]]:
    servers = []

    def start(token: str = "", **arguments: Any) -> Console:
        robot = FakeRobot()
        hub = Hub(robot, **arguments)
        server = Server(hub, Access("127.0.0.1", token), "127.0.0.1", 0)
        server.start()
        servers.append(server)
        return Console(robot, hub, server)

    yield start
    for server in servers:
        server.stop()


async def until(condition: Callable[[], Any]) -> Any:
    """The first true value."""
    while not (value := condition()):
        await asyncio.sleep(0.005)
    return value


async def event(page: Any, kind: str) -> dict[str, Any]:
    """The next text event of a kind."""
    while True:
        message = await page.receive()
        assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
        if message.type is aiohttp.WSMsgType.TEXT and (content := json.loads(message.data))["type"] == kind:
            return content


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def encoded(mask: np.ndarray) -> str:
    return base64.b64encode(png(mask)).decode()


def picture(request_id: str, stamp: int = 5) -> Picture:
    rgb = np.zeros((20, 30, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", rgb)[1].tobytes()
    return Picture(request_id, stamp, jpeg, jpeg, (30, 20), png(rgb))


def mask(request_id: str, label: int = 1) -> Mask:
    return Mask(request_id, 5, {"label": label, "roi": [4, 3, 8, 6], "score": 0.9}, png(np.full((6, 8), 255, np.uint8)))


def answer(console: Console, request_id: str, command: str = "the cup", source: str = "action") -> None:
    """A whole answer, as the robot's side tells it."""
    console.server.tell(Progress(request_id, {"command": command, "stage": "READING"}))
    console.server.tell(picture(request_id))
    fields = {"command": command, "status": "SUCCESS", "masks": [], "source": source}
    console.server.tell(Result(request_id, fields, (mask(request_id),)))


def handshake(console: Console) -> bytes:
    """The request that opens a WebSocket, for a client that shall not read."""
    lines = ["GET /ws HTTP/1.1", f"Host: 127.0.0.1:{console.server.port}", f"Origin: {console.origin}"]
    lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += [f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}", "", ""]
    return "\r\n".join(lines).encode()


def text_frame(text: str) -> bytes:
    """A masked text frame of up to 125 bytes (RFC 6455, 5.2); the mask is zero."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


def live(number: int) -> Live:
    return Live("", write_binary(Kind.FRAME, number, {}, [b"jpeg"]))


def test_the_page_is_served_with_its_security_headers(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        for path in ("/", "/static/main.js", "/static/console.css", "/nothing", "/static/../server.py"):
            async with session.get(f"{console.origin}{path}") as response:
                assert response.status == (404 if path in ("/nothing", "/static/../server.py") else 200)
                assert "default-src 'self'" in response.headers["Content-Security-Policy"]
                assert response.headers["X-Frame-Options"] == "DENY"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
        async with session.post(f"{console.origin}/", data="x") as response:
            assert response.status == 405
        async with session.get(f"{console.origin}/", headers={"Host": "evil.example"}) as response:
            assert response.status == 403

    console.run(work)


def test_the_page_is_small() -> None:
    static = Path(__file__).parents[2] / "lisa_console" / "static"
    assert sum(file.stat().st_size for file in static.iterdir()) < 80_000


def test_another_origin_and_none_are_refused(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await console.page(session, **headers)
            assert refused.value.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{console.origin}/ws")

    console.run(work)


def test_a_wrong_token_is_refused_and_the_right_one_is_not(start: Callable[..., Console]) -> None:
    console = start(token=TOKEN)
    assert console.server.url.endswith(f"/#token={TOKEN}")

    async def work(session: Any) -> None:
        for first in ('{"type": "hello", "token": "wrong"}', '{"type": "hello"}', '{"type": "clear"}', "nonsense"):
            page = await console.page(session)
            await page.send_str(first)
            assert (await page.receive_json())["type"] == "refused"
            assert (await page.receive()).type is aiohttp.WSMsgType.CLOSE
        await console.enter(session, TOKEN)
        assert not console.robot.calls

    console.run(work)


def test_malformed_messages_are_answered_and_the_page_stays(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        page = await console.enter(session)
        for text in ("garbage", "[]", '{"type": "command", "text": 5}', '{"type": "publish"}'):
            await page.send_str(text)
            assert "malformed" in (await event(page, "problem"))["text"]
        await page.send_bytes(bytes(range(256)))
        assert "binary data" in (await event(page, "problem"))["text"]
        await page.send_json({"type": "clear"})
        await until(lambda: console.robot.calls)
        assert console.robot.calls == [("clear",)]

    console.run(work)


def test_an_oversized_message_closes_its_page_alone(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        other, page = await console.enter(session), await console.enter(session)
        await page.send_str("a" * (2 << 20))
        while (message := await page.receive()).type is not aiohttp.WSMsgType.CLOSE:
            assert message.type is aiohttp.WSMsgType.TEXT
        assert message.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        console.server.tell(State({"state": "READY"}))
        assert (await event(other, "state"))["state"] == "READY"

    console.run(work)


def test_a_ninth_page_is_refused(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        pages = [await console.enter(session) for _ in range(MOST_VIEWERS)]
        page = await console.page(session)
        await page.send_json({"type": "hello", "token": ""})
        assert "close one" in (await event(page, "refused"))["text"]
        assert not any(page.closed for page in pages)

    console.run(work)


def test_pictures_are_taken_only_while_somebody_watches(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        page = await console.enter(session, visible=False)
        await page.send_json({"type": "clear"})
        await until(lambda: console.robot.calls)
        assert console.robot.watched == frozenset()
        await page.send_json({"type": "view", "camera": "", "visible": True})
        await until(lambda: console.robot.watched == {""} and console.robot.wanted == {""})
        await page.close()
        await until(lambda: console.robot.watched == frozenset() and console.robot.wanted == frozenset())

    console.run(work)


def test_a_page_gets_two_pictures_ahead_and_then_the_newest(start: Callable[..., Console]) -> None:
    console = start()

    async def stamp_of(page: Any) -> int:
        while (message := await page.receive()).type is not aiohttp.WSMsgType.BINARY:
            pass
        return PREFIX.unpack_from(message.data)[1]

    async def work(session: Any) -> None:
        page = await console.enter(session)
        await until(lambda: console.robot.wanted)
        for number in (1, 2):
            console.server.tell(live(number))
            assert await stamp_of(page) == number
        await until(lambda: not console.robot.wanted)  # both wait to be drawn
        console.server.tell(live(3))
        await page.send_json({"type": "drawn"})
        await until(lambda: console.robot.wanted)
        console.server.tell(live(4))
        assert await stamp_of(page) == 4

    console.run(work)


def test_a_page_that_never_reads_delays_nobody_and_is_closed(start: Callable[..., Console]) -> None:
    console = start()
    large = Mask("a", 5, {"label": 1, "roi": [0, 0, 1, 1]}, bytes(200_000))

    async def work(session: Any) -> None:
        with socket.create_connection(("127.0.0.1", console.server.port)) as stalled:
            stalled.sendall(handshake(console) + text_frame('{"type": "hello", "token": ""}'))
            await until(lambda: console.hub.viewers)
            reader = await console.enter(session)
            heard = 0
            while len(console.hub.viewers) == 2:
                console.server.tell(large)
                console.server.tell(State({"number": heard}))
                assert (await event(reader, "state"))["number"] == heard
                heard += 1
            assert heard > 50

    console.run(work)


def test_a_page_that_comes_later_has_the_history(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        first = await console.enter(session)
        answer(console, "a")
        await event(first, "result")
        console.server.tell(Chosen("a", 1))
        await event(first, "chosen")
        page = await console.page(session)
        await page.send_json({"type": "hello", "token": ""})
        (entry,) = (await event(page, "history"))["entries"]
        assert (entry["id"], entry["chosen"], entry["result"]["status"]) == ("a", 1, "SUCCESS")
        await page.send_json({"type": "show", "id": "a"})
        kinds = []
        while len(kinds) < 3:
            message = await page.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                kinds.append(PREFIX.unpack_from(message.data)[0])
        assert kinds == [Kind.THUMBNAIL, Kind.PICTURE, Kind.MASK]
        await page.send_json({"type": "show", "id": "never"})
        assert "no longer in the history" in (await event(page, "problem"))["text"]

    console.run(work)


def test_the_history_has_an_end(start: Callable[..., Console], tmp_path: Path) -> None:
    console = start(history_dir=tmp_path / "answers")

    async def work(session: Any) -> None:
        page = await console.enter(session)
        for number in range(MOST_ENTRIES + 5):
            answer(console, f"n{number}")
            await event(page, "result")
        assert [entry.request_id for entry in console.hub.history] == [f"n{n}" for n in range(5, MOST_ENTRIES + 5)]

    console.run(work)
    assert len(list((tmp_path / "answers").glob("*.json"))) == MOST_ENTRIES + 5
    assert len(list((tmp_path / "answers").glob("*.jpg"))) == MOST_ENTRIES + 5


def test_a_standing_command_leaves_the_history_to_people(start: Callable[..., Console]) -> None:
    console = start()

    async def work(session: Any) -> None:
        page = await console.enter(session)
        answer(console, "a")
        await event(page, "result")
        for number in range(2 * MOST_ENTRIES):
            answer(console, f"watch-{number}", source="watch")
            await event(page, "result")
        assert [entry.request_id for entry in console.hub.history] == ["a", f"watch-{2 * MOST_ENTRIES - 1}"]

    console.run(work)


def test_corrections_are_kept_as_examples(start: Callable[..., Console], tmp_path: Path) -> None:
    console = start(examples=tmp_path)
    mended = np.zeros((20, 30), np.uint8)
    mended[5:9, 10:20] = 255

    async def work(session: Any) -> None:
        page = await console.enter(session)
        for name, message in {
            "right": {"right": True},
            "mended": {"right": False, "mask": encoded(mended)},
            "absent": {"right": False, "mask": encoded(np.zeros((20, 30), np.uint8))},
        }.items():
            answer(console, name)
            await page.send_json({"type": "correct", "id": name, **message})
            assert (await event(page, "verdict"))["saved"]
        answer(console, "wrong")
        await page.send_json({"type": "correct", "id": "wrong", "right": False})
        assert not (await event(page, "verdict"))["saved"]
        await page.send_json(
            {
                "type": "correct",
                "id": "mended",
                "right": False,
                "mask": encoded(np.zeros((2, 2), np.uint8)),
            }
        )
        assert "no PNG of 30 x 20" in (await event(page, "problem"))["text"]
        await page.send_json({"type": "correct", "id": "never", "right": True})
        assert "in the history" in (await event(page, "problem"))["text"]

    console.run(work)
    truths = {file.stem.partition("_")[2]: read_example(file) for file in tmp_path.glob("*.png")}
    assert set(truths) == {"right", "mended", "absent"}
    assert all(example.texts == ("the cup",) for example in truths.values())
    expected = np.zeros((20, 30), np.uint8)
    expected[3:9, 4:12] = 1
    assert np.array_equal(truths["right"].truth, expected)
    assert np.array_equal(truths["mended"].truth, mended // 255)
    assert not truths["absent"].truth.any()


def test_a_port_in_use_is_named(start: Callable[..., Console]) -> None:
    console = start()
    second = Server(Hub(FakeRobot()), Access("127.0.0.1"), "127.0.0.1", console.server.port)
    with pytest.raises(OSError, match="in use"):
        second.start()


def test_an_example_stays_in_its_folder_whatever_the_id_is(start: Callable[..., Console], tmp_path: Path) -> None:
    console = start(examples=tmp_path / "kept")

    async def work(session: Any) -> None:
        page = await console.enter(session)
        answer(console, "../../out")
        await page.send_json({"type": "correct", "id": "../../out", "right": True})
        assert (await event(page, "verdict"))["saved"]

    console.run(work)
    assert [file.name for file in (tmp_path / "kept").glob("*.png")] == ["5_out.png"]


def test_a_mask_is_not_unpacked_before_its_size_is_known(start: Callable[..., Console], tmp_path: Path) -> None:
    console = start(examples=tmp_path)
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)  # OpenCV raises for so many pixels
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    large = base64.b64encode(content).decode()

    async def work(session: Any) -> None:
        page = await console.enter(session)
        answer(console, "large")
        await page.send_json({"type": "correct", "id": "large", "right": False, "mask": large})
        assert "no PNG of 30 x 20" in (await event(page, "problem"))["text"]

    console.run(work)
    assert not list(tmp_path.iterdir())


def test_the_address_that_is_logged_has_no_token() -> None:
    server = Server(Hub(FakeRobot()), Access("127.0.0.1", TOKEN), "127.0.0.1", 8080)
    assert TOKEN not in server.address
    assert server.url == f"{server.address}#token={TOKEN}"
