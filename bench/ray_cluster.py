"""A Ray cluster of several nodes on this machine, with the server on it, for tests and benchmarks.

The head runs no model: it has Ray's proxy and its controller. Every further node has room for one
replica. All share the machine's cores, so that replicas which compute do not add up; those of
`bench.sleeping` do.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve._private.common import ReplicaState
from ray.serve._private.constants import SERVE_DEFAULT_APP_NAME

from bench.peers.process import HOST, free_port
from deploy import ray_app
from deploy.ray_settings import RaySettings

_REPLICA = b"ray::ServeReplica:default:model-"
_ROLES = {"proxy": b"ray::ProxyActor", "router": b"ray::ServeReplica:default:router"}
_MEMORY_BYTES = 80_000_000  # of each node's object store: requests do not go through it
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 lets everything else on the machine go first
}


@dataclass
class Nodes:
    """A cluster that answers.

    Attributes:
        port: Of the proxy, on the loopback interface.
        settings: Of what is deployed.
    """

    port: int
    settings: RaySettings
    _cluster: Cluster
    _workers: list[Any]

    @property
    def url(self) -> str:
        """Where the server answers."""
        return f"http://{HOST}:{self.port}"

    def deploy(self, settings: RaySettings, model: type[ray_app.Model] = ray_app.Model) -> None:
        """Deploy the server, or deploy it anew, and wait until it is ready."""
        self.settings = settings
        serve.run(ray_app.application(settings, model))

    def add_node(self) -> None:
        """Add room for one replica."""
        self._workers.append(self._cluster.add_node(num_cpus=1, **_node()))

    def kill_node(self) -> None:
        """End a node and all that runs on it, at once."""
        self._cluster.remove_node(self._workers.pop(), allow_graceful=False)

    def replicas(self) -> list[int]:
        """Return the process ids of all replicas of models; Linux only."""
        return _processes(_REPLICA)

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time used so far by proxy, router and replicas, in seconds."""
        roles = {**_ROLES, "replicas": _REPLICA}
        return {role: sum(map(_cpu_s, _processes(start))) for role, start in roles.items()}

    def num_running(self) -> int:
        """Return how many replicas of models Ray has for ready."""
        deployments = serve.status().applications[SERVE_DEFAULT_APP_NAME].deployments
        return sum(
            one.replica_states.get(ReplicaState.RUNNING, 0)
            for name, one in deployments.items()
            if name.startswith("model-")
        )

    def kill_replica(self) -> int:
        """End the oldest replica with SIGKILL and return its process id.

        Raises:
            IndexError: If there is none.
        """
        pid = self.replicas()[0]
        os.kill(pid, signal.SIGKILL)
        return pid


@contextmanager
def cluster(num_nodes: int) -> Iterator[Nodes]:
    """Start a cluster with room for so many replicas and a proxy; stop it in the end."""
    os.environ.update(_ENVIRONMENT)
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **_node()},
        shutdown_at_exit=True,
    )
    try:
        started = Nodes(free_port(), RaySettings(), nodes, [])
        for _ in range(num_nodes):
            started.add_node()
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        options = {"host": HOST, "port": started.port}
        serve.start(proxy_location="HeadOnly", http_options=options)
        yield started
    finally:
        if ray.is_initialized():
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()
        nodes.shutdown()  # type: ignore[no-untyped-call]


def _node() -> dict[str, Any]:
    return {"object_store_memory": _MEMORY_BYTES, "num_gpus": 0}


def _processes(start: bytes) -> list[int]:
    """Return those of our descendants whose command starts so."""
    commands = {int(path.parent.name): _read(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    found = [pid for pid, command in commands.items() if command.startswith(start)]
    return sorted(pid for pid in found if os.getpid() in _ancestors(pid))


def _cpu_s(pid: int) -> float:
    ticks = _fields(pid)[11:13]  # in user mode, in the kernel
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _fields(pid: int) -> list[bytes]:
    """Return a process's state, parent, group and so on, which follow its name."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        fields = _fields(pid)
        pid = int(fields[1]) if fields else 0
        yield pid


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""
