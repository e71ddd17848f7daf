"""What docker-compose.yml starts, from this system's packages: PostgreSQL, server, Prometheus."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bench.peers.process import free_port
from server.settings import PREFIX
from tests.deploy.tools import (
    DEADLINE_S,
    DEPLOY,
    ROOT,
    answers,
    run,
    started,
    tool,
    wait_until,
)
from tests.postgres import cluster
from tests.server.samples import image, text_of
from tests.tiny import write_checkpoint
from tests.tiny_text import write_text_checkpoint

DASHBOARD = DEPLOY / "grafana" / "dashboards" / "rheostat.json"
RULES = DEPLOY / "prometheus" / "rules.yml"
WINDOW = "5m"  # what Grafana would fill in


def expressions() -> dict[str, str]:
    """Return every query of the dashboard by its panel and letter."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        f"{panel['title']}, {target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", [])
    }


@dataclass(frozen=True)
class Stack:
    """Servers that run.

    Attributes:
        prometheus: A client of Prometheus.
        process: Prometheus.
        log: What it printed.
    """

    prometheus: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return a query's labels and values."""
        answer = self.prometheus.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def wait_for(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return a query's values once it has one that is a number."""

        def has_data() -> bool:
            return any(math.isfinite(value) for _, value in self.ask(expression))

        wait_until(has_data, self.process, self.log, DEADLINE_S)
        return self.ask(expression)


def test_the_rules_are_valid() -> None:
    assert "SUCCESS" in run(tool("promtool"), "check", "rules", RULES)


def test_the_configuration_is_valid() -> None:
    run(tool("promtool"), "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    run(tool("promtool"), "test", "rules", ROOT / "tests" / "deploy" / "alerts.yml")


def test_every_alert_is_tested() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load((ROOT / "tests" / "deploy" / "alerts.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    fired = {check["alertname"] for check in checks if check.get("exp_alerts")}
    quiet = {check["alertname"] for check in checks if not check.get("exp_alerts")}
    assert alerts == fired == quiet


def test_the_dashboard_is_what_its_program_prints() -> None:
    assert run(sys.executable, DEPLOY / "grafana" / "make_dashboard.py") == DASHBOARD.read_text()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, a server with the environment that compose gives it, and Prometheus."""
    program = tool("prometheus")
    folder = tmp_path_factory.mktemp("stack")
    write_checkpoint(folder / "models" / "tiny")
    write_text_checkpoint(folder / "models" / "tiny-text")
    with ExitStack() as exits:
        database = exits.enter_context(cluster()).create("rheostat")
        service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["rheostat"]
        port = free_port()
        environment = {
            **{name: x for name, x in os.environ.items() if not name.startswith(PREFIX)},
            **service["environment"],
            "RHEOSTAT_DATABASE": database,
            "RHEOSTAT_OPEN": "true",
            "RHEOSTAT_MODELS": str(folder / "models"),
            "RHEOSTAT_PROFILES": str(folder / "profiles"),
            "RHEOSTAT_PORT": str(port),
            "RHEOSTAT_NUM_THREADS": "1",
            "RHEOSTAT_MAX_CACHE_BYTES": "100000",
        }
        keys = [sys.executable, "-m", "server", "keys", "create", "--database", database]
        admin = run(*keys, "--scope", "admin").strip()

        command = [sys.executable, "-m", "server", "serve"]
        log = folder / "server.log"
        server = exits.enter_context(started(command, log, environment))
        address = f"127.0.0.1:{port}"
        client = exits.enter_context(httpx.Client(base_url=f"http://{address}", timeout=DEADLINE_S))
        wait_until(lambda: answers(client, "/readyz"), server, log)

        stored = client.put("/v1/clients/shop", json={}, headers=bearer(admin))
        assert stored.is_success, stored.text
        key = run(*keys, "--scope", "infer", "--client", "shop").strip()

        own = free_port()
        log = folder / "prometheus.log"
        process = exits.enter_context(started(prometheus(program, folder, address, own), log))
        base = f"http://127.0.0.1:{own}"
        with httpx.Client(base_url=base, timeout=DEADLINE_S) as asked:
            wait_until(lambda: answers(asked, "/-/ready"), process, log)
            stack = Stack(asked, process, log)
            # Growth can be seen only from a first look on.
            stack.wait_for('rheostat_client_flops_total{client="shop"} == 0')
            count = send(client, bearer(key))
            stack.wait_for(f"sum(rheostat_requests_total) == {count}")
            yield stack


def prometheus(program: str, folder: Path, address: str, port: int) -> list[str]:
    """Return the command of a Prometheus with the repository's rules, in a hurry."""
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES)]
    (scraped,) = configuration["scrape_configs"]
    del scraped["dns_sd_configs"]
    scraped["static_configs"] = [{"targets": [address]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    return [
        program,
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def send(client: httpx.Client, headers: dict[str, str]) -> int:
    """Make requests of every kind, with and without budgets, some equal, and return how many."""
    picture = {"model": "tiny", "image": text_of(image())}
    text = {"model": "tiny-text", "input": ["a", "b"]}
    requests = (
        ("/v1/infer", picture, 200),
        ("/v1/infer", picture | {"budget": {"fraction": 0.5}}, 200),
        ("/v1/infer", picture | {"budget": {"latency_ms": 60_000}}, 200),
        ("/v1/infer", picture | {"budget": {"latency_ms": 1e-6}}, 422),
        ("/v1/infer", picture | {"budget": {"flops": -1}}, 422),
        ("/v1/infer", {"model": "unknown"}, 422),
        ("/v1/embeddings", text, 200),
        ("/v1/embeddings", text | {"budget": {"latency_ms": 60_000}}, 200),
    )
    for path, body, status in 3 * requests:
        answer = client.post(path, json=body, headers=headers)
        assert answer.status_code == status, answer.text
    return 3 * len(requests)


@pytest.mark.system
def test_every_panel_of_the_dashboard_has_data(stack: Stack) -> None:
    found = {}
    for name, expression in expressions().items():
        for variable, value in (("$__rate_interval", WINDOW), ("$job", "rheostat")):
            expression = expression.replace(variable, value)
        expression = expression.replace("$instance", ".*").replace("$model", ".*")
        assert "$" not in expression
        found[name] = stack.wait_for(expression)
    stages = {labels["stage"] for labels, _ in found["Latency by stage, p99, A"]}
    assert stages == {"decode", "search", "queue", "run", "total"}
    assert [count for _, count in found["Servers, A"]] == [1]
    (client,) = [labels for labels, _ in found["Compute by client, A"]]
    assert client == {"client": "shop"}
    for name in ("Latency budgets met, A", "Total latency, C"):
        assert {labels["model"] for labels, _ in found[name]} == {"tiny", "tiny-text"}


@pytest.mark.system
def test_every_rule_is_evaluated_and_nothing_is_on_fire(stack: Stack) -> None:
    (missed, *_) = stack.wait_for(
        'job_model:rheostat_latency_budgets:missed_ratio_rate5m{model="tiny"}'
    )
    assert missed[1] == 0
    groups = stack.prometheus.get("/api/v1/rules").json()["data"]["groups"]
    rules: list[dict[str, Any]] = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == sum(
        len(group["rules"]) for group in yaml.safe_load(RULES.read_text())["groups"]
    )
    assert {rule["health"] for rule in rules} == {"ok"}
    for rule in rules:
        if rule["type"] == "recording" and "_rate5m" in rule["name"]:
            stack.wait_for(rule["name"])
    assert not [rule["name"] for rule in rules if rule.get("state") == "firing"]


@pytest.mark.system
def test_metrics_follow_the_conventions(stack: Stack) -> None:
    """Counters end in _total, times are seconds, and no label could be flooded by clients."""
    metadata = stack.prometheus.get("/api/v1/metadata").json()["data"]
    ours = {name: one[0] for name, one in metadata.items() if name.startswith("rheostat_")}
    assert len(ours) > 15
    for name, one in ours.items():
        assert one["help"], name
        assert name.endswith("_total") == (one["type"] == "counter"), name
        assert not name.endswith(("_ms", "_milliseconds", "_minutes", "_megabytes")), name
    ours_alone = {"match[]": '{__name__=~"rheostat_.+"}'}
    labels = stack.prometheus.get("/api/v1/labels", params=ours_alone)
    known = {"__name__", "client", "front", "instance", "job", "le", "model", "outcome", "quota"}
    build = {"version", "torch", "backend", "device"}
    assert set(labels.json()["data"]) <= known | build | {"reason", "stage"}
