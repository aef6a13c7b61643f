"""``lisa serve --ray``: the same server as replicas on a Ray cluster, one engine each, behind one URL.

Ray Serve starts, places, restarts and scales the replicas and spreads the commands. A replica is the application of
lisa_ros.remote.server, so clients see no difference. No command belongs to a replica: conversations travel with each
command, and a frame that a replica does not have is sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.applications import Starlette

from lisa_ros.errors import ConfigError, LisaError
from lisa_ros.remote.commands import Limits

APPLICATION = "lisa"
CONSTRUCTOR_TRIES = 3
LOGGING = LoggingConfig(log_level="WARNING", enable_access_log=False)
SPARE_REQUESTS = 16
"""Requests to a replica beyond its commands: /hello, /health, /metrics, and commands that are told BUSY."""


@dataclass(frozen=True)
class ClusterSettings:
    """What runs on the cluster.

    Args:
        model: As ``load_engine`` takes it; a folder must exist on every machine of the cluster.
        device: As ``load_engine`` takes it.
        precision: As ``load_engine`` takes it.
        options: Of the engine.
        limits: Of each replica.
        token: Secret of the clients; empty: none.
        address: Of the cluster, as ``ray.init`` takes it; ``local`` starts one on this machine.
        host: Address to listen at.
        port: Port to listen at.
        replicas: Number of engines; the fewest with ``max_replicas``.
        max_replicas: Most engines; 0: always ``replicas``.
        certificate: Files of certificate and key (PEM); both None for http.
        gpus: GPUs of a replica, may be a fraction; None: one where the cluster has any and the device is not cpu.
        cpus: CPUs of a replica.
    """

    model: str
    device: str = "auto"
    precision: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    token: str = ""
    address: str = "local"
    host: str = "127.0.0.1"
    port: int = 8000
    replicas: int = 1
    max_replicas: int = 0
    certificate: tuple[str | None, str | None] = (None, None)
    gpus: float | None = None
    cpus: float = 1.0


class Replica:
    """What Ray Serve asks of a replica beside its application (``app``, which Ray Serve adds)."""

    app: Starlette

    def check_health(self) -> None:
        """Called by Ray Serve, which starts a replica again where this raises."""
        thread = self.app.state.thread
        if thread.stuck_s > thread.limits.stuck_s:
            raise LisaError(f"the engine has not stopped for {thread.stuck_s:.0f} s")


def start(settings: ClusterSettings) -> None:
    """Start the replicas and wait until all are ready.

    Raises:
        ConfigError: The cluster cannot be reached.
        LisaError: The engine cannot be loaded.
    """

    def build() -> Starlette:
        """Runs in each replica."""
        from lisa_ros.engine.registry import load_engine
        from lisa_ros.process_tuning import keep_freed_buffers
        from lisa_ros.remote.server import make_app
        from lisa_ros.runtime.worker_process import warm_up

        engine = load_engine(settings.model, settings.device, settings.precision, settings.options)
        keep_freed_buffers()
        warm_up(engine)
        return make_app(engine, settings.limits, settings.token)

    _connect(settings)
    commands = 1 + settings.limits.waiting
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=settings.replicas,
                max_replicas=settings.max_replicas,
                target_ongoing_requests=2,  # one runs, one waits: more is a reason for another replica
            )
        }
    deployment: Any = serve.deployment(
        serve.ingress(build)(Replica),
        name="engine",
        ray_actor_options={"num_gpus": _gpus(settings), "num_cpus": settings.cpus},
        max_ongoing_requests=commands + SPARE_REQUESTS,  # a replica itself says BUSY
        max_queued_requests=SPARE_REQUESTS * max(settings.replicas, settings.max_replicas),
        max_constructor_retry_count=CONSTRUCTOR_TRIES,
        graceful_shutdown_timeout_s=5,
        logging_config=LOGGING,
        **scaling,
    )
    try:
        serve.run(deployment.bind(), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise LisaError(f"the replicas did not start: {_why() or error}") from error


def _connect(settings: ClusterSettings) -> None:
    """Join the cluster or start one, and have Ray Serve listen. Raises ConfigError."""
    local = settings.address == "local"
    try:
        # A dashboard of a cluster that lives as long as this process is of no use, and one more open port.
        ray.init("local" if local else settings.address, include_dashboard=False if local else None)
    except (ConnectionError, ValueError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--ray {settings.address}: {reason}; give the address of a cluster, or none") from error
    cert, key = settings.certificate
    serve.start(
        http_options=HTTPOptions(host=settings.host, port=settings.port, ssl_certfile=cert, ssl_keyfile=key),
        logging_config=LOGGING,
    )


def _gpus(settings: ClusterSettings) -> float:
    if settings.gpus is not None:
        return settings.gpus
    return 1.0 if settings.device != "cpu" and ray.cluster_resources().get("GPU") else 0.0


def _why() -> str:
    """The last line of what a replica that could not be made says; empty where nothing is known."""
    lines = [
        line.strip()
        for application in serve.status().applications.values()
        for deployment in application.deployments.values()
        for line in deployment.message.splitlines()
    ]
    return next((line for line in reversed(lines) if "Error" in line), "")


def stop() -> None:
    """End the replicas; the cluster too, if it was started here."""
    serve.shutdown()
    ray.shutdown()
