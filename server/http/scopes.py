"""Every path and what it needs.

A path without an entry in `SCOPES` is answered as if nothing were there, whatever routes the
application has: what nobody classified, nobody reaches.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.routing import compile_path

from server.clients.keys import Scope as KeyScope
from server.errors import UnknownPathError

PUBLIC = None
_ADMIN, _INFER, _METRICS = KeyScope.ADMIN, KeyScope.INFER, KeyScope.METRICS

SCOPES: Mapping[str, KeyScope | None] = {
    # Health, for load balancers, and the description of the API, which is no secret.
    "/healthz": PUBLIC,
    "/readyz": PUBLIC,
    "/health": PUBLIC,
    "/ping": PUBLIC,
    "/v2/health/live": PUBLIC,
    "/v2/health/ready": PUBLIC,
    "/docs": PUBLIC,
    "/docs/assets/{name}": PUBLIC,
    "/redoc": PUBLIC,
    "/openapi.json": PUBLIC,
    "/ui": PUBLIC,  # the page; what it asks needs a key
    "/ui/{name}": PUBLIC,
    "/metrics": _METRICS,
    "/v1/clients": _ADMIN,
    "/v1/clients/{client}": _ADMIN,
    "/v1/keys": _ADMIN,
    "/v1/keys/{key}": _ADMIN,
    "/v1/checkpoints": _ADMIN,
    "/v1/models/{model}/load": _ADMIN,
    "/v1/models/{model}/reload": _ADMIN,
    "/v1/models/{model}/unload": _ADMIN,
    "/v1/infer": _INFER,
    "/v1/plan": _INFER,
    "/v1/similarity": _INFER,
    "/v1/classify": _INFER,
    "/v1/models": _INFER,
    "/v1/models/{model}": _INFER,
    "/v1/embeddings": _INFER,
    "/embeddings": _INFER,
    "/v1/rerank": _INFER,
    "/v1/indexes": _INFER,
    "/v1/indexes/{index}": _INFER,
    "/v1/neighbors": _INFER,
    "/v2/rerank": _INFER,
    "/rerank": _INFER,
    "/": _INFER,
    "/embed": _INFER,
    "/similarity": _INFER,
    "/predict": _INFER,
    "/tokenize": _INFER,
    "/decode": _INFER,
    "/info": _INFER,
    "/v2": _INFER,
    "/v2/repository/index": _INFER,
    "/v2/models/{model}": _INFER,
    "/v2/models/{model}/config": _INFER,
    "/v2/models/{model}/ready": _INFER,
    "/v2/models/{model}/infer": _INFER,
    "/v2/models/{model}/versions/{version}": _INFER,
    "/v2/models/{model}/versions/{version}/config": _INFER,
    "/v2/models/{model}/versions/{version}/ready": _INFER,
    "/v2/models/{model}/versions/{version}/infer": _INFER,
}
# Names of models may have slashes, so the longest templates go first.
_TEMPLATES = [
    (template, compile_path(template.replace("{model}", "{model:path}"))[0])
    for template in sorted(SCOPES, key=lambda template: -template.count("/"))
    if "{" in template
]


def scope_of(path: str) -> KeyScope | None:
    """Return what a path needs; None for nothing.

    Raises:
        UnknownPathError: If nobody has said.
    """
    return SCOPES[template_of(path)]


def template_of(path: str) -> str:
    """Return the key of `SCOPES` that a path belongs to.

    Raises:
        UnknownPathError: If there is none.
    """
    if path in SCOPES:
        return path
    for template, pattern in _TEMPLATES:
        if pattern.match(path):
            return template
    raise UnknownPathError("nothing answers at this path")


def model_in(path: str) -> str | None:
    """Return the name of the model that a path has; None if it has none."""
    if path not in SCOPES:
        for _, pattern in _TEMPLATES:
            if found := pattern.match(path):
                return found.groupdict().get("model")
    return None
