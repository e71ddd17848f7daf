from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.served import Served
from server.settings import Settings
from tests.server.samples import image, text_of

IMAGE = {"image": text_of(image())}
SHOP = {
    "preferences": {"tiny": {"fish": 3, "flowers": 1}},
    "budget": {"fraction": 0.5, "min_quality": 0.5, "strict": True},
    "maximum": {"fraction": 0.8},
    "priority": 1,
    "weight": 2.0,
    "quota": {"requests_per_s": 50, "flops_per_day": 1e15},
    "models": ["tiny"],
}


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of an app with its own clients, that sends an administrator's key."""
    url = f"sqlite:///{tmp_path_factory.mktemp('clients') / 'clients.db'}"
    settings = Settings(models=folder, policy="fixed", database=url, max_clients=2)
    with TestClient(create_app(settings)) as client:
        scopes = ["admin", "infer", "metrics"]
        made = client.post("/v1/keys", json={"scopes": scopes, "label": "root"})
        assert made.status_code == 201
        client.headers["authorization"] = f"Bearer {made.json()['key']}"
        yield client


@pytest.fixture
def app_client(running: TestClient) -> TestClient:
    """The same, without the clients that other tests have left, and their keys."""
    for client in running.get("/v1/clients").json()["clients"]:
        running.delete(f"/v1/clients/{client['id']}")
    return running


def key_of(client: TestClient, owner: str) -> dict[str, str]:
    """Make a key for a client and return the header that carries it."""
    made = client.post("/v1/keys", json={"client": owner, "scopes": ["infer"]})
    return {"authorization": f"Bearer {made.json()['key']}"}


def error(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()["error"]
    return found


def test_a_client_is_created_read_replaced_listed_and_deleted(app_client: TestClient) -> None:
    created = app_client.put("/v1/clients/shop", json=SHOP)
    assert created.status_code == 201
    unlimited = dict.fromkeys(("flops", "macs", "latency_ms", "bytes"))
    expected = {
        "id": "shop",
        **SHOP,
        "adapters": {},
        "budget": {**unlimited, **SHOP["budget"]},  # type: ignore[dict-item]
        "maximum": {**unlimited, "fraction": 0.8},
        "quota": {
            "requests_per_s": 50,
            "request_burst": None,
            "flops_per_s": None,
            "flops_burst": None,
            "flops_per_day": 1e15,
        },
    }
    assert created.json() == expected
    assert app_client.get("/v1/clients/shop").json() == expected
    assert app_client.put("/v1/clients/shop", json={}).status_code == 200
    (listed,) = app_client.get("/v1/clients").json()["clients"]
    assert (listed["weight"], listed["models"], listed["preferences"]) == (1.0, None, {})
    assert app_client.delete("/v1/clients/shop").status_code == 204
    for method in ("GET", "DELETE"):
        found = error(app_client.request(method, "/v1/clients/shop"), 404)
        assert (found["type"], found["message"]) == (
            "unknown_client",
            "client 'shop' is not known",
        )


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"wieght": 1}, "wieght", "is not a field; allowed: preferences, budget"),
        ({"weight": 0}, "weight", "greater than or equal to 0.001"),
        ({"priority": -1}, "priority", "greater than or equal to 0"),
        (
            {"quota": {"requests_per_s": 0}},
            "quota.requests_per_s",
            "greater than or equal to 0.000001",
        ),
        ({"quota": {"requests_per_s": 5e-324}}, "quota.requests_per_s", "=5e-324 must be greater"),
        ({"quota": {"requests_per_s": 1e10}}, "quota.requests_per_s", "less than or equal to 1000"),
        ({"quota": {"request_burst": 1e10}}, "quota.request_burst", "less than or equal to 1000"),
        ({"quota": {"flops_per_s": 0.5}}, "quota.flops_per_s", "greater than or equal to 1"),
        ({"quota": {"flops_burst": 1e22}}, "quota.flops_burst", "less than or equal to 1000"),
        ({"quota": {"flops_per_day": -1}}, "quota.flops_per_day", "greater than or equal to 1"),
        ({"weight": 10**400}, "weight", "must be a valid number"),
        ({"models": ["tiny", "tiny"]}, "models", "models names 'tiny' more than once"),
        ({"maximum": {"fraction": 1.5}}, "maximum.fraction", "less than or equal to 1"),
        ({"maximum": {"strict": True}}, "maximum.strict", "allowed: flops, macs, fraction"),
        ({"models": ["huge"]}, "models", r"model 'huge' is not known; one of \['tiny'\]"),
        ({"preferences": {"tiny": {"cats": 1}}}, "preferences.tiny.cats", "task 'cats' is not"),
        (
            {"budget": {"flops": 3e6}, "maximum": {"macs": 1e6}},
            "budget.flops",
            "budget.flops=3000000 is above the client's maximum, 2000000",
        ),
        ({"quota": {"flops_burst": 5}}, "quota.flops_burst", "needs quota.flops_per_s"),
    ],
)
def test_a_wrong_client_is_refused_by_its_field(
    app_client: TestClient, body: dict[str, Any], field: str, message: str
) -> None:
    found = error(app_client.put("/v1/clients/shop", json=body), 422)
    assert found["field"] == field
    assert re.search(message, found["message"]), found["message"]
    assert app_client.get("/v1/clients/shop").status_code == 404


@pytest.mark.parametrize("client", ["a b", "-a", "x" * 65, "a%0Ab"])
def test_a_clients_id_is_a_plain_word(app_client: TestClient, client: str) -> None:
    message = error(app_client.put(f"/v1/clients/{client}", json={}), 422)["message"]
    assert re.fullmatch(r"path\.client='.*' must match pattern '.*'", message)


def test_there_are_no_more_clients_than_the_settings_allow(app_client: TestClient) -> None:
    for name in ("a", "b"):
        app_client.put(f"/v1/clients/{name}", json={})
    assert "2 clients already" in error(app_client.put("/v1/clients/c", json={}), 409)["message"]


def test_keys_are_shown_once_listed_without_their_secret_and_revoked(
    app_client: TestClient,
) -> None:
    app_client.put("/v1/clients/shop", json={})
    body = {"client": "shop", "scopes": ["infer"], "label": "web", "expires_in_s": 60}
    made = app_client.post("/v1/keys", json=body).json()
    assert made["expires"] == pytest.approx(made["created"] + 60)
    headers = {"x-api-key": made["key"], "authorization": ""}
    assert app_client.post("/v1/infer", json=IMAGE, headers=headers).status_code == 200
    root, listed = app_client.get("/v1/keys").json()["keys"]
    assert (root["label"], root["client"]) == ("root", None)
    assert listed == {name: value for name, value in made.items() if name != "key"}
    assert app_client.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert error(app_client.post("/v1/infer", json=IMAGE, headers=headers), 401)["message"] == (
        "the key has been revoked"
    )
    for unknown in ("0", "%00", "0" * 16, "x" * 300):
        assert error(app_client.delete(f"/v1/keys/{unknown}"), 404)["type"] == "unknown_key"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"scopes": []}, 422, "scopes"),
        ({"scopes": ["all"]}, 422, "scopes[0]"),
        ({"scopes": ["infer"], "client": "nobody"}, 404, "client"),
        ({"scopes": ["infer"], "expires_in_s": -1}, 422, "expires_in_s"),
        ({"scopes": ["infer"], "expires_in_s": 1e-300}, 422, "expires_in_s"),
        ({"scopes": ["infer"], "expires_in_s": 1e10}, 422, "expires_in_s"),
        ({"scopes": ["infer"], "expires_in_s": 10**400}, 422, "expires_in_s"),
        ({"scopes": ["infer"], "expires_in_s": "60"}, 422, "expires_in_s"),
        ({"scopes": ["infer"], "expires_in_s": True}, 422, "expires_in_s"),
        ({"scopes": ["infer"], "label": "a\u0000b"}, 422, "label"),
        ({"scopes": ["infer"], "label": "one\ntwo"}, 422, "label"),
        ({"scopes": ["infer"], "label": "x" * 201}, 422, "label"),
        ({"scopes": ["infer"], "client": "no\nbody"}, 422, "client"),
        ({"scopes": ["infer"], "expires": 5}, 422, "expires"),
    ],
)
def test_a_wrong_key_is_refused_by_its_field(
    app_client: TestClient, body: dict[str, Any], status: int, field: str
) -> None:
    assert error(app_client.post("/v1/keys", json=body), status)["field"] == field
    assert len(app_client.get("/v1/keys").json()["keys"]) == 1


def test_a_request_inherits_what_its_client_has_stored(
    app_client: TestClient, served: Served
) -> None:
    app_client.put("/v1/clients/shop", json=SHOP)
    key = key_of(app_client, "shop")
    receipt = app_client.post("/v1/infer", json=IMAGE, headers=key).json()["receipt"]
    assert receipt["preferences"] == {"fish": 0.75, "flowers": 0.25, "people": 0}
    assert receipt["fraction"] <= 0.5
    body = {"preferences": {"people": 1}, "budget": {"fraction": 0.8}}
    receipt = app_client.post("/v1/plan", json=body, headers=key).json()["receipt"]
    assert receipt["preferences"] == {"fish": 0, "flowers": 0, "people": 1}
    found = error(app_client.post("/v1/plan", json={"budget": {"fraction": 0.9}}, headers=key), 422)
    assert found["field"] == "budget.fraction"
    assert found["message"] == "budget.fraction=0.9 is above the client's maximum, 0.8"


def test_a_changed_client_acts_on_the_next_request(app_client: TestClient) -> None:
    app_client.put("/v1/clients/shop", json={})
    key = key_of(app_client, "shop")
    for fraction in (0.3, 0.6):
        app_client.put("/v1/clients/shop", json={"maximum": {"fraction": fraction}})
        asked = {"budget": {"fraction": fraction + 0.01}}
        assert app_client.post("/v1/plan", json=asked, headers=key).status_code == 422
        receipt = app_client.post("/v1/plan", json={}, headers=key).json()["receipt"]
        assert receipt["fraction"] <= fraction


def test_a_used_up_quota_is_429_with_both_retry_headers_and_counted(
    app_client: TestClient,
) -> None:
    flops = app_client.post("/v1/plan", json={}).json()["receipt"]["flops"]
    app_client.put("/v1/clients/shop", json={"quota": {"flops_per_day": 2.5 * flops}})
    key = key_of(app_client, "shop")
    two = {"images": [IMAGE["image"]] * 2}
    assert app_client.post("/v1/infer", json=two, headers=key).status_code == 200
    response = app_client.post("/v1/infer", json=IMAGE, headers=key)
    found = error(response, 429)
    assert (found["type"], found["field"]) == ("quota_exceeded", "quota.flops_per_day")
    assert 0 < int(response.headers["retry-after"]) <= 86_400
    assert int(response.headers["retry-after-ms"]) <= 86_400_000
    app_client.put("/v1/clients/shop", json={"quota": {"requests_per_s": 0.001}})
    assert app_client.post("/v1/infer", json=IMAGE, headers=key).status_code == 200
    assert app_client.post("/v1/plan", json={}, headers=key).status_code == 200  # runs nothing
    assert error(app_client.post("/v1/infer", json=IMAGE, headers=key), 429)
    lines = (line.rpartition(" ") for line in app_client.get("/metrics").text.splitlines())
    values = {name: value for name, _, value in lines}
    assert float(values['rheostat_client_requests_total{client="shop"}']) == 3
    assert float(values['rheostat_client_flops_total{client="shop"}']) == 3 * flops
    for quota, count in (("flops_per_day", 1), ("requests_per_s", 1), ("flops_per_s", 0)):
        name = f'rheostat_quota_refusals_total{{client="shop",quota="{quota}"}}'
        assert float(values[name]) == count
