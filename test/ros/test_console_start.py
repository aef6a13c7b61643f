"""How the console starts and ends: `make console` as a person has it, wrong parameters, TLS."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from console_page import Browser, ConsoleProcess, Tab, chromium
from machine_speed import limit
from robot import REPOSITORY, Client, scene, wait_for

NOWHERE = "/nobody"  # a namespace without a node


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_wrong_parameters_are_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wrong = {
            "port is 70000; it lies between 0 and 65535": {"port": 70000},
            f"port {port} cannot be used": {"port": port},
            "host '192.0.2.1'": {"host": "192.0.2.1"},
            "token has 5 characters; give at least 16": {"token": "short"},
            "node is empty": {"node": "''"},
            "image_transport is 'jpeg'; choose raw or compressed": {"image_transport": "jpeg"},
            "it is a file, give a folder": {"save_examples": tmp_path / "file"},
            "there is no such file": {"certificate": "/nowhere", "certificate_key": "/nowhere"},
            "belong together": {"certificate": tmp_path / "file"},
        }
        started = {reason: ConsoleProcess(tmp_path, NOWHERE, **settings) for reason, settings in wrong.items()}
        for reason, console in started.items():
            assert console.process.wait(limit(60)) == 2, console.said()
            line = console.said().splitlines()[-1]
            assert line.startswith("lisa_console: "), console.said()
            assert reason in line
            assert "Traceback" not in console.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_by_a_signal_with_code_0(number: int, tmp_path: Path) -> None:
    console = ConsoleProcess(tmp_path, NOWHERE)
    assert console.url.startswith("http://127.0.0.1:")
    assert console.stop(number) == 0
    assert "Traceback" not in console.said()


@pytest.mark.skipif(not shutil.which("openssl"), reason="a certificate is made by openssl: apt install openssl")
def test_a_certificate_gives_an_encrypted_page(tmp_path: Path, browser: Browser, launch) -> None:
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    files = [tmp_path / "key.pem", tmp_path / "certificate.pem"]
    subprocess.run([*request, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    client: Client = launch()
    client.ready()
    client.view = scene()
    namespace = client.lisa.namespace
    console = ConsoleProcess(tmp_path, namespace, certificate=files[1], certificate_key=files[0])
    assert console.url.startswith("https://")
    tab = Tab(browser, client, console.url, ignore_https_errors=True).open().ready()
    assert tab.ask("the box").startswith("found")
    tab.close()
    assert console.stop() == 0


@pytest.mark.weights
def test_make_console_gives_a_page_to_talk_to_and_ctrl_c_ends_everything(
    opengl: None, tmp_path: Path, browser: Browser
) -> None:
    """With the bundled model: the answer has metres."""
    command = [sys.executable, str(REPOSITORY / "demo" / "console.py"), "--port", "0"]
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )
    try:

        def address() -> str:
            assert demo.poll() is None, log.read_text()
            found = re.search(r"open (http://\S+) in a browser", log.read_text())
            return found.group(1) if found else ""

        url = wait_for(address, "address of the console", 60)
        page = browser.new_page()
        page.goto(url)
        wait_for(lambda: "READY" in page.inner_text("#state-text"), "ready node", 90)
        wait_for(lambda: page.inner_text("#caption") == "live", "live picture", 60)
        page.fill("#command", "something to tighten this screw")
        page.press("#command", "Enter")
        wait_for(lambda: page.inner_text("#stage").startswith("found"), "answer", 60)
        (chip,) = page.locator("#chips button").all_inner_texts()
        assert re.search(r"^1\s+.* 0\.\d\d, \d+ mm, \d\.\d\d m$", chip, re.DOTALL), chip
        page.close()
    finally:
        children = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        demo.wait(limit(30))
    assert "Traceback" not in log.read_text()
    wait_for(lambda: not any(child.is_running() for child in children), "end of everything that was started")
