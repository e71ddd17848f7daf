from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.http.direct import Direct
from server.settings import Settings

SIMPLE = {
    "/v1/infer",
    "/v1/plan",
    "/v1/embeddings",
    "/embeddings",
    "/v1/similarity",
    "/v1/classify",
    "/v1/rerank",
    "/v2/rerank",
    "/rerank",
    "/",
    "/embed",
    "/similarity",
    "/predict",
    "/tokenize",
    "/decode",
    "/v1/keys",
    "/v1/indexes",
    "/v1/neighbors",
    "/v2/repository/index",
}
CHANGES = {"receipt", "id", "key", "created", "request_id"}  # from one request to the next
RANKING = {"model": "tiny-text", "query": "a", "documents": ["b", "c d"], "return_documents": True}


def steady(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: steady(value) for key, value in found.items() if key not in CHANGES}
    return [steady(one) for one in found] if isinstance(found, list) else found


def is_direct(middleware: Any) -> bool:
    return middleware.cls is Direct


def test_posts_at_fixed_paths_are_answered_directly(text_settings: Settings) -> None:
    app = create_app(text_settings)
    direct: Any
    (direct,) = [one for one in app.user_middleware if is_direct(one)]
    assert set(Direct(app, **direct.kwargs)._routes) == SIMPLE


@contextmanager
def both(settings: Settings, folder: Path) -> Iterator[tuple[TestClient, TestClient]]:
    """Clients of two servers alike, of which the second leaves everything to the framework."""
    with ExitStack() as stack:
        clients = []
        for name in ("direct", "framework"):
            database = f"sqlite:///{folder / name}.db"
            app = create_app(settings.model_copy(update={"database": database}))
            if name == "framework":
                app.user_middleware = [x for x in app.user_middleware if not is_direct(x)]
            clients.append(stack.enter_context(TestClient(app)))
        yield clients[0], clients[1]


@pytest.fixture(scope="module")
def clients(
    text_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TestClient, TestClient]]:
    with both(text_settings, tmp_path_factory.mktemp("databases")) as found:
        yield found


def seen(answer: Any) -> tuple[object, ...]:
    names = [name for name in answer.headers if not name.startswith("x-")]
    content = steady(json.loads(answer.content))
    return answer.status_code, answer.headers["content-type"], names, content


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/embeddings", {"model": "tiny-text", "input": ["a b", "c"]}, 200),
        ("/v1/embeddings", {"model": "tiny-text", "input": "a", "dimensions": 5}, 400),
        ("/v1/rerank", RANKING, 200),
        ("/v2/rerank", {**RANKING, "return_documents": False}, 200),
        ("/rerank", {"query": "a", "texts": ["b", "c"]}, 200),
        ("/embed", {"inputs": ["a", "b c"]}, 200),
        ("/embed", {"inputs": []}, 400),
        ("/v2/repository/index", {}, 200),
        ("/v1/infer", {"image": "no base64"}, 422),
        ("/v1/embeddings", ["no object"], 400),
    ],
)
def test_answers_are_those_of_the_framework(
    clients: tuple[TestClient, TestClient], path: str, body: Any, status: int
) -> None:
    direct, framework = [client.post(path, json=body) for client in clients]
    assert direct.status_code == status
    assert seen(direct) == seen(framework)


def test_a_route_has_its_own_status(text_settings: Settings, tmp_path: Path) -> None:
    with both(text_settings, tmp_path) as clients:
        direct, framework = [c.post("/v1/keys", json={"scopes": ["infer"]}) for c in clients]
    assert direct.status_code == 201
    assert seen(direct) == seen(framework)
