"""Who may use the console."""

from __future__ import annotations

import pytest

from lisa_console.access import TRIES, Access, Refused
from lisa_ros.errors import ConfigError

TOKEN = "a-token-that-is-long-enough"


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080", "LOCALHOST"])
def test_loopback_names_are_hosts_of_a_console_on_loopback(host: str) -> None:
    Access("127.0.0.1").check_host({"Host": host})


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080", "", "[", "robot"])
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(Refused, match="allowed_hosts"):
        Access("127.0.0.1").check_host({"Host": host})


def test_named_hosts_are_allowed() -> None:
    Access("127.0.0.1", allowed_hosts=("robot",)).check_host({"Host": "robot:8080"})


@pytest.mark.parametrize(
    "origin", ["", "null", "http://evil.example", "http://127.0.0.1:9000", "http://[", "127.0.0.1:8080"]
)
def test_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(Refused, match="Origin"):
        Access("127.0.0.1").check_origin({"Host": "127.0.0.1:8080", "Origin": origin})


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_consoles_own_page_is_allowed(scheme: str) -> None:
    Access("127.0.0.1").check_origin({"Host": "127.0.0.1:8080", "Origin": f"{scheme}://127.0.0.1:8080"})


def test_a_console_on_loopback_needs_no_token() -> None:
    access = Access("127.0.0.1")
    assert access.token == ""
    access.check_token("")


def test_a_console_on_another_address_makes_a_token() -> None:
    first, second = Access("0.0.0.0"), Access("0.0.0.0")
    assert len(first.token) >= 32
    assert first.token != second.token
    first.check_token(first.token)
    with pytest.raises(Refused, match="token is wrong"):
        first.check_token("")


def test_a_short_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="5 characters"):
        Access("127.0.0.1", "abcde")


def test_after_many_wrong_tokens_the_right_one_is_refused_too() -> None:
    access = Access("127.0.0.1", TOKEN)
    for wrong in ["x", "\ud800", *(f"y{number}" for number in range(TRIES - 2))]:
        with pytest.raises(Refused, match="token is wrong"):
            access.check_token(wrong)
    with pytest.raises(Refused, match="too many"):
        access.check_token(TOKEN)


def test_a_page_with_an_old_token_does_not_shut_others_out() -> None:
    access = Access("127.0.0.1", TOKEN)
    for _ in range(3 * TRIES):
        with pytest.raises(Refused, match="token is wrong"):
            access.check_token("an-old-token")
    access.check_token(TOKEN)


def test_another_loopback_address_is_a_host_of_its_console() -> None:
    Access("127.0.0.2").check_host({"Host": "127.0.0.2:8080"})
