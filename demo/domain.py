"""A DDS domain for oneself: two demos, or a demo and a robot, on one machine do not hear each other."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

# Domains 1 to 100 keep every DDS port below Linux's ephemeral range; 0 is everybody's default, so it is never taken.
DOMAINS = range(1, 101)
PROFILE = Path(__file__).resolve().parent.parent / "config" / "fastdds_large_images.xml"


def claim() -> IO[bytes]:
    """Take a free domain for this process and its children, through ``ROS_DOMAIN_ID``: localhost only, and with shared
    memory that is large enough for a stream of images.

    Returns the open lock file: the domain is ours until it is closed, at the latest at the end of the process.
    Raises RuntimeError when all are taken.
    """
    folder = Path(tempfile.gettempdir(), f"lisa_ros_domains_{os.getuid()}")
    folder.mkdir(exist_ok=True)
    start = os.getpid() % len(DOMAINS)
    for domain in [*DOMAINS[start:], *DOMAINS[:start]]:
        lock = Path(folder, str(domain)).open("wb")  # noqa: SIM115 - kept open: the lock lives as long as the file
        try:
            # Not inherited: a child that outlives us must not keep the domain.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"  # Jazzy and later
        if os.environ.get("ROS_DISTRO") == "humble":
            os.environ["ROS_LOCALHOST_ONLY"] = "1"  # its older name; later releases warn about it
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):  # before and since Kilted
            os.environ.setdefault(name, str(PROFILE))
        return lock
    raise RuntimeError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use; end another demo or test run")
