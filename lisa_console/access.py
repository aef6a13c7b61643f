"""Who may use the console: Host and Origin of a request, and the token."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Mapping
from urllib.parse import urlsplit

from lisa_ros.errors import ConfigError

TRIES, WITHIN_S = 10, 60.0  # different wrong tokens, of all pages together
DELAY_S = 1.0  # before the answer to a wrong token
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHORTEST_TOKEN = 16  # characters


class Refused(Exception):
    """A request is not answered; the message says why."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """The rules for one console.

    Args:
        host: Address that it listens on.
        token: That every page must know; empty: none on a loopback address, a random one on any other.
        allowed_hosts: Names by which pages may reach it, besides the address itself.

    Raises:
        ConfigError: The token is too short to be secret.
    """

    def __init__(self, host: str, token: str = "", allowed_hosts: tuple[str, ...] = ()) -> None:
        if token and len(token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"token has {len(token)} characters; give at least {SHORTEST_TOKEN}, or none for a random one"
            )
        if not token and not is_loopback(host):
            token = secrets.token_urlsafe(32)
        self.token = token
        named = (*LOOPBACK, host) if is_loopback(host) else (host,)
        self._hosts = {name.lower() for name in (*named, *allowed_hosts)}
        # Listening on every address: which one a page uses is not known, and the token protects.
        self._any_host = host in ("0.0.0.0", "::") and not allowed_hosts
        self._wrong: deque[tuple[float, bytes]] = deque()

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Against DNS rebinding: the name that a page used must be one of ours. Raises Refused."""
        try:
            name = urlsplit(f"//{headers.get('Host', '')}").hostname or ""
        except ValueError:
            name = ""
        if not self._any_host and name not in self._hosts:
            raise Refused(f"Host {name!r} is not one of {', '.join(sorted(self._hosts))}: add it to allowed_hosts")

    def check_origin(self, headers: Mapping[str, str]) -> None:
        """A page of another site must not talk to the robot through a person's browser. Raises Refused."""
        origin = headers.get("Origin", "")
        try:
            place = urlsplit(origin).netloc
        except ValueError:
            place = ""
        if not place or place.lower() != headers.get("Host", "").lower():
            raise Refused(f"Origin {origin!r} is not the console's own page")

    def check_token(self, token: str) -> None:
        """Raises Refused for a wrong one, and for any after too many wrong ones."""
        if not self.token:
            return
        now = time.monotonic()
        while self._wrong and now - self._wrong[0][0] > WITHIN_S:
            self._wrong.popleft()
        if len(self._wrong) >= TRIES:
            raise Refused("too many wrong tokens; wait a minute")
        encoded = token.encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(encoded, self.token.encode()):
            # The same one again tells a guesser nothing: a page with an old token, which tries for ever, counts once.
            if all(encoded != before for _, before in self._wrong):
                self._wrong.append((now, encoded))
            raise Refused("the token is wrong; open the address that the console printed at its start")
