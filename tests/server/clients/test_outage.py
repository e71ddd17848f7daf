from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.settings import Settings
from tests.postgres import cluster
from tests.server.samples import image, text_of

pytestmark = pytest.mark.system

IMAGE = {"image": text_of(image())}


def test_known_clients_are_served_while_the_database_is_away(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster() as server, caplog.at_level(logging.WARNING):
        settings = Settings(models=folder, policy="fixed", database=server.create("away"))
        with TestClient(create_app(settings)) as client:
            body = {"quota": {"requests_per_s": 0.01, "request_burst": 6}}
            client.put("/v1/clients/shop", json=body)
            made = client.post("/v1/keys", json={"client": "shop", "scopes": ["infer", "admin"]})
            client.headers["x-api-key"] = made.json()["key"]

            def infer() -> int:
                return client.post("/v1/infer", json=IMAGE).status_code

            assert infer() == 200
            server.stop()
            # Also the first, which finds out; and the quota holds by what was known of it.
            statuses = [infer() for _ in range(8)]
            assert statuses[:4] == [200] * 4
            assert statuses[-1] == 429
            response = client.put("/v1/clients/other", json={})
            assert response.status_code == 503
            error = response.json()["error"]
            assert error["type"] == "database_unavailable"
            assert error["message"].startswith("database=postgresql+asyncpg://rheostat@127.0.0.1:")
            assert "quotas hold on each replica by itself" in caplog.text

            server.start()
            while client.put("/v1/clients/other", json={}).status_code == 503:
                pass
            assert client.get("/v1/clients/other").status_code == 200
