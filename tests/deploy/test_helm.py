"""The chart, rendered by Helm and read by Kubernetes' own schemas."""

from __future__ import annotations

import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.settings import Settings
from tests.deploy.tools import DEPLOY, run, tool

CHART = DEPLOY / "helm" / "rheostat"
VERSIONS = ("1.27.0", "1.31.0", "1.37.0")  # oldest that the chart names, and newer ones
OPERATOR = "monitoring.coreos.com/v1"  # its kinds are in no schema of Kubernetes

EVERYTHING = {
    "access.open": "false",
    "autoscaling.enabled": "true",
    "database.url": "postgresql://user:secret@postgres/rheostat",
    "gpu.enabled": "true",
    "grpc.enabled": "true",
    "image.pullSecrets[0].name": "registry",
    "models.existingClaim": "checkpoints",
    "networkPolicy.egress[0].ports[0].port": "4318",
    "podAnnotations.note": "text",
    "serviceMonitor.enabled": "true",
    "serviceMonitor.keySecret.name": "metrics-key",
    "serviceMonitor.keySecret.key": "key",
    "settings.max_body_bytes": "41943040",
    "settings.policy": "fixed",
    "settings.target_delay_ms": "12.5",
    "state.existingClaim": "times",
}


def options(values: dict[str, str]) -> list[str]:
    return [f"--set={name}={value}" for name, value in values.items()]


def rendered(values: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the chart's resources by kind."""
    text = run(tool("helm"), "template", "release", CHART, *options(values or {}))
    resources = [one for one in yaml.safe_load_all(text) if one]
    by_kind = {one["kind"]: one for one in resources}
    assert len(by_kind) == len(resources)
    return by_kind


def container_of(resources: dict[str, Any]) -> dict[str, Any]:
    (container,) = resources["Deployment"]["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def variables_of(resources: dict[str, Any]) -> dict[str, str | None]:
    return {one["name"]: one.get("value") for one in container_of(resources)["env"]}


def test_helm_has_nothing_against_the_chart() -> None:
    helm = tool("helm")
    for values in ({}, EVERYTHING):
        run(helm, "lint", "--strict", CHART, *options(values))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_every_resource_is_one_of_kubernetes(values: dict[str, str], version: str) -> None:
    for resource in rendered(values).values():
        if resource["apiVersion"] != OPERATOR:
            kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_refuse_a_field_that_does_not_exist() -> None:
    service = rendered()["Service"]
    service["spec"]["port"] = 80
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_the_server_takes_the_environment_that_the_pod_gives(
    values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = rendered(values)
    variables = variables_of(resources)
    if "database.url" in values:
        assert variables.pop("RHEOSTAT_DATABASE") is None
        variables["RHEOSTAT_DATABASE"] = resources["Secret"]["stringData"]["url"]
    for name, value in variables.items():
        assert value is not None
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.open is ("access.open" not in values)
    assert settings.drain_s == 5
    if values:
        assert settings.max_body_bytes == 41_943_040
        assert settings.target_delay_ms == 12.5
        assert settings.database == EVERYTHING["database.url"]
    # Kubernetes would add some, named after services, and the server refuses what it knows not.
    assert resources["Deployment"]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_the_pod_may_do_nothing_that_serving_does_not_need() -> None:
    resources = rendered()
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    container = container_of(resources)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {one["mountPath"] for one in container["volumeMounts"]} == {"/var/lib/rheostat", "/tmp"}


def test_selectors_and_ports_meet() -> None:
    resources = rendered(EVERYTHING)
    template = resources["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    ports = {one["name"] for one in container_of(resources)["ports"]}
    service = resources["Service"]
    monitor = resources["ServiceMonitor"]["spec"]
    for selector in (
        service["spec"]["selector"],
        resources["Deployment"]["spec"]["selector"]["matchLabels"],
        resources["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        resources["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "rheostat"
    assert {one["targetPort"] for one in service["spec"]["ports"]} == ports == {"http", "grpc"}
    assert monitor["endpoints"][0]["port"] in {one["name"] for one in service["spec"]["ports"]}
    for rule in resources["NetworkPolicy"]["spec"]["ingress"]:
        assert {one["port"] for one in rule["ports"]} <= ports


def test_the_autoscaler_alone_says_how_many_pods_there_are() -> None:
    assert rendered()["Deployment"]["spec"]["replicas"] == 2
    resources = rendered(EVERYTHING)
    assert "replicas" not in resources["Deployment"]["spec"]
    scaler = resources["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == resources["Deployment"]["metadata"]["name"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] == "rheostat_backlog_seconds"


def test_pods_have_time_to_end() -> None:
    resources = rendered({"termination.drainSeconds": "10", "termination.graceSeconds": "60"})
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    variables = variables_of(resources)
    assert (variables["RHEOSTAT_DRAIN_S"], variables["RHEOSTAT_GRACE_S"]) == ("10", "60")
    assert pod["terminationGracePeriodSeconds"] > 70


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"replicas": "0"}, "replicas"),
        ({"replcas": "2"}, "replcas"),
        ({"settings.port": "80"}, "port"),
        ({"settings.maxQueue": "80"}, "maxQueue"),
        ({"database.url": "mysql://x"}, "url"),
        ({"database.url": "postgresql://x", "database.existingSecret": "y"}, "database"),
        ({"access.open": "false"}, "access.open=false needs database"),
        ({"service.port": "70000"}, "port"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(values: dict[str, str], word: str) -> None:
    done = subprocess.run(
        [tool("helm"), "template", "release", CHART, *options(values)],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert word in done.stderr
