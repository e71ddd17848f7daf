"""The image for CPUs: built, and run as an engine would, with a read-only root file system."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.peers.process import free_port
from tests.deploy.tools import DEPLOY, ROOT, answers, run, started, tool, wait_until
from tests.server.samples import image, text_of

pytestmark = pytest.mark.system

IMAGE = "localhost/rheostat:test"
UNREACHABLE = ("pinging container registry", "no such host", "connection refused", "i/o timeout")


@dataclass(frozen=True)
class Container:
    """An image's root file system and how it is to be run."""

    root: Path
    config: dict[str, Any]

    def command(self, words: list[str], environment: dict[str, str]) -> list[str]:
        """Return a command that runs another in the image, as an engine would.

        It has mounts of its own, writes to the volume and to /tmp alone, and is the image's user.
        """
        variables = dict(one.split("=", 1) for one in self.config["Env"]) | environment
        settings = [f"{name}={value}" for name, value in variables.items()]
        user, group = self.config["User"].split(":")
        script = f"""
            set -e
            mount --bind "$0" "$0"
            mount -o remount,bind,ro "$0"
            mount -t proc proc "$0/proc"
            mount --rbind /dev "$0/dev"
            mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
            mount -t tmpfs -o uid={user},gid={group} tmpfs "$0{self.config["WorkingDir"]}"
            exec chroot --userspec={user}:{group} "$0" env -i -C {self.config["WorkingDir"]} "$@"
        """
        inside = ["sh", "-c", script, str(self.root), *settings, *words]
        return ["unshare", "--mount", "--propagation", "private", *inside]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """The image, built from this tree, as a file system."""
    buildah = tool("buildah")
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    build = subprocess.run(
        [DEPLOY / "build.sh", "cpu", IMAGE], capture_output=True, text=True, cwd=ROOT
    )
    if build.returncode != 0 and any(sign in build.stderr for sign in UNREACHABLE):
        pytest.skip("needs the base image: deploy/base.sh makes a stand-in")
    assert build.returncode == 0, build.stdout[-4000:] + build.stderr[-4000:]
    found = json.loads(run(buildah, "inspect", "--type", "image", IMAGE))
    name = run(buildah, "from", "--pull-never", IMAGE).strip()
    try:
        root = Path(run(buildah, "mount", name).strip())
        yield Container(root, found["Docker"]["config"])
    finally:
        run(buildah, "rm", name)


def test_it_is_run_by_a_user_and_told_to_end_by_signals(container: Container) -> None:
    config = container.config
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["rheostat"], "a shell would keep signals to itself"
    assert "PYTHONSAFEPATH=1" in config["Env"]
    assert config["Volumes"] == {"/var/lib/rheostat": {}}
    labels = {name.rpartition(".")[2] for name in config["Labels"]}
    assert {"title", "description", "licenses", "revision"} <= labels


def test_it_carries_torch_for_cpus_and_no_tools(container: Container) -> None:
    (packages,) = container.root.glob("opt/rheostat/lib/python3.*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {
        "torch",
        "onnxruntime",
        "asyncpg",
        "grpc",
        "server",
        "models",
        "search",
        "rheostat",
    } <= names
    assert not [name for name in names if name.startswith(("nvidia", "triton", "pip", "pytest"))]
    assert not (container.root / "etc" / "pip.conf").exists(), "it may hold a password"


def test_it_serves_and_ends_in_good_order(container: Container, tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "RHEOSTAT_PORT": str(port),
        "RHEOSTAT_NUM_THREADS": "1",
        "RHEOSTAT_OPEN": "true",
        "HOME": container.config["WorkingDir"],
    }
    words = container.config["Entrypoint"] + container.config["Cmd"]
    log = tmp_path / "log"
    with (
        started(container.command(words, environment), log) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        check = container.config["Healthcheck"]["Test"]
        assert check[0] == "CMD"
        is_healthy = container.command(check[1:], environment)
        assert subprocess.run(is_healthy, capture_output=True).returncode != 0

        wait_until(lambda: answers(client, "/readyz"), server, log)
        assert subprocess.run(is_healthy, capture_output=True).returncode == 0

        body = {"image": text_of(image()), "budget": {"fraction": 0.3}}
        answer = client.post("/v1/infer", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["receipt"]["fraction"] <= 0.3
        embedding = client.post("/v1/embeddings", json={"model": "minilm-2d", "input": "a text"})
        assert len(embedding.json()["data"][0]["embedding"]) == 384

        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    text = log.read_text()
    assert "Application shutdown complete" in text
    assert "Traceback" not in text
    assert "Read-only file system" not in text
