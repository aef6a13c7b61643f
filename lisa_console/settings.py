"""The console's parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node

from lisa_ros.errors import ConfigError

DESCRIPTIONS = {
    "node": "name of the lisa node",
    "cameras": "names of cameras, as the node has them; without names: one camera, on image",
    "image_transport": "type of the messages on image: raw or compressed",
    "host": "address to listen on; any other than a loopback one needs the token that is printed at the start",
    "port": "TCP port; 0: a free one",
    "token": "that pages must know, 16 characters or more; empty: none on loopback, else a random one",
    "allowed_hosts": "names by which browsers may reach the console, besides its address",
    "certificate": "PEM file of a TLS certificate; empty: no TLS",
    "certificate_key": "PEM file of its key",
    "save_examples": "folder where corrected answers are kept for training; empty: they are not",
    "history_dir": "folder where every answer is written; empty: none is",
}


@dataclass(frozen=True)
class Settings:
    """Values that were checked. Raises ConfigError for one that cannot be used."""

    node: str = "/lisa"
    cameras: tuple[str, ...] = ("",)
    image_transport: str = "raw"
    host: str = "127.0.0.1"
    port: int = 8080
    token: str = ""
    allowed_hosts: tuple[str, ...] = ("",)
    certificate: str = ""
    certificate_key: str = ""
    save_examples: str = ""
    history_dir: str = ""

    def __post_init__(self) -> None:
        if not self.node.strip():
            raise ConfigError("node is empty; give the name of the lisa node, for example /lisa")
        if self.image_transport not in ("raw", "compressed"):
            raise ConfigError(f"image_transport is {self.image_transport!r}; choose raw or compressed")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port is {self.port}; it lies between 0 and 65535")
        if bool(self.certificate) != bool(self.certificate_key):
            raise ConfigError("certificate and certificate_key belong together; give both or none")
        for name in ("certificate", "certificate_key"):
            file = getattr(self, name)
            if file and not Path(file).is_file():
                raise ConfigError(f"{name} is {file!r}; there is no such file")
        for name in ("save_examples", "history_dir"):
            folder = getattr(self, name)
            if folder and Path(folder).exists() and not Path(folder).is_dir():
                raise ConfigError(f"{name} is {folder!r}; it is a file, give a folder")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """One empty name where there is one camera without a name."""
        return tuple(filter(None, self.cameras)) or ("",)


def read_settings(node: Node) -> Settings:
    """Declares the parameters. Raises ConfigError."""
    values: dict[str, Any] = {}
    for one in fields(Settings):
        default = list(one.default) if isinstance(one.default, tuple) else one.default
        descriptor = ParameterDescriptor(description=DESCRIPTIONS[one.name], read_only=True)
        try:
            value = node.declare_parameter(one.name, default, descriptor).value
        except InvalidParameterTypeException as error:
            raise ConfigError(str(error)) from error
        values[one.name] = tuple(value) if isinstance(one.default, tuple) else value
    return Settings(**values)
