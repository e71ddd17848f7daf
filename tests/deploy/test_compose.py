"""docker-compose.yml and what it mounts."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.clients.database import Database
from server.settings import PREFIX, Settings
from tests.deploy.tools import DEPLOY, ROOT, run

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SERVERS = ("rheostat", "rheostat-gpu")


def default(text: str) -> str:
    """Fill in variables of the shell as if none were set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_it_follows_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    run(*check, ROOT / "docker-compose.yml")


@pytest.mark.parametrize("name", SERVERS)
def test_the_server_takes_the_environment_that_it_is_given(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in SERVICES[name]["environment"].items():
        assert variable.startswith(PREFIX)
        monkeypatch.setenv(variable, default(value))
    settings = Settings()
    assert settings.open
    assert Database(settings.database_url).is_shared


@pytest.mark.parametrize("name", SERVERS)
def test_servers_write_to_their_volume_alone(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["volumes"] == ["state:/var/lib/rheostat"]
    assert "rheostat" in service["networks"]["default"]["aliases"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f" AS {service['build']['target']}\n" in dockerfile


def test_only_the_gpu_needs_a_profile() -> None:
    assert [name for name, one in SERVICES.items() if "profiles" in one] == ["rheostat-gpu"]


def test_nothing_can_be_reached_from_elsewhere_by_default() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", [])]
    assert len(ports) == 4
    assert all(default(port).startswith("127.0.0.1:") for port in ports)
    assert COMPOSE["networks"]["database"]["internal"]
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_what_is_mounted_exists() -> None:
    mounts = [m.split(":") for one in SERVICES.values() for m in one.get("volumes", [])]
    for source, *_ in mounts:
        assert source in COMPOSE["volumes"] or (ROOT / source).is_dir(), source


def test_grafana_is_told_of_its_source_and_its_dashboard() -> None:
    folder = DEPLOY / "grafana"
    provisioning = folder / "provisioning"
    (source,) = loaded(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES
    (provider,) = loaded(provisioning / "dashboards" / "rheostat.yml")["providers"]
    assert any(
        mount.split(":")[1] == provider["options"]["path"]
        and (ROOT / mount.split(":")[0] / "rheostat.json").is_file()
        for mount in SERVICES["grafana"]["volumes"]
    )


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
