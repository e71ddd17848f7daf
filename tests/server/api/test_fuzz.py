"""Requests that Schemathesis makes up from the OpenAPI document, against a server that listens.

A few for each operation; `make fuzz` sends as many as one likes. Paths that change the server for
those that come later (keys, clients, models) are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import hypothesis
import pytest

from bench.hostile.__main__ import look_at, run

schemathesis = pytest.importorskip("schemathesis")

NUM_REQUESTS = 5  # for each operation, and way of making them
LEFT_OUT = r"^/v1/(clients|keys)|load$"
FEW = hypothesis.settings(
    max_examples=NUM_REQUESTS,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_gets_an_answer_that_is_not_documented(text_url: str, mode: str) -> None:
    """Neither a status that is not, nor another body, nor an error of the server's own."""
    api = schemathesis.openapi.from_url(f"{text_url}/openapi.json").exclude(path_regex=LEFT_OUT)
    checks = schemathesis.checks.CHECKS.get_by_names(
        [
            "not_a_server_error",
            "status_code_conformance",
            "content_type_conformance",
            "response_schema_conformance",
        ]
    )
    sent: Counter[str] = Counter()

    def send(case: Any) -> None:
        sent[case.operation.label] += 1
        case.call_and_validate(checks=checks)

    generation = schemathesis.GenerationMode[mode]
    for operation in (found.ok() for found in api.get_all_operations()):
        if mode == "NEGATIVE" and not operation.body:
            continue  # nothing to get wrong
        strategy = operation.as_strategy(generation_mode=generation)
        given: Any = hypothesis.given(strategy)  # typed for functions whose arguments it knows
        FEW(given(send))()
    assert len(sent) > 10
    assert sum(sent.values()) >= NUM_REQUESTS * 10


def test_hostile_requests_get_no_error_of_the_servers_own(text_url: str) -> None:
    """A few of those that `bench.hostile` sends; `make fuzz` sends them all, and watches."""
    host, _, port = text_url.removeprefix("http://").partition(":")
    address = (host, int(port))
    target = look_at(address, None)
    assert (target.text_model, target.image_model) == ("tiny-text", "tiny")
    assert {"/v1/embeddings", "/v1/infer", "/embed"} <= {path for _, path, _ in target.operations}
    outcomes = run(address, target, 1, range(80), 4, math.inf)
    assert len(outcomes) == 80
    assert not [one for one in outcomes if (one.reply.status or 0) in (424, 500, 502)]
    assert sum(one.reply.status == 200 for one in outcomes) > 5
