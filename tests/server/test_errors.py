from __future__ import annotations

import json
import logging
from typing import Annotated, Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from search.budget import InfeasibleBudgetError
from search.find import RequestError
from server import errors
from server.api.documentation import SAMPLES
from server.api.rheostat.schema import InferBody, PlanBody
from server.app import FORMS
from server.errors import (
    ClientError,
    InvalidRequestError,
    ModelNotReadyError,
    OverloadedError,
    RheostatError,
    shown,
)
from server.http.forms import Form, Forms, invalid, own_form, translate


def respond(error: Exception, request_id: str) -> Response:
    """Return the response in Rheostat's own form."""
    return Forms({}).respond(error, scope("/v1/infer", request_id))


def scope(path: str, request_id: str = "id-1", **state: Any) -> dict[str, Any]:
    return {"path": path, "state": {"request_id": request_id, **state}}


def body_of(error: Exception) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(respond(error, "id-1").body))
    return body


def fault_in(text: str, model: type[PlanBody] = PlanBody) -> InvalidRequestError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(text)
    return invalid(caught.value, model, "the body")


def tree(kind: type[RheostatError]) -> list[type[RheostatError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]


def test_the_module_text_lists_every_error_with_its_status_and_type() -> None:
    lines = (errors.__doc__ or "").splitlines()
    for kind in tree(RheostatError):
        (line,) = (line for line in lines if kind.__name__ in line.split())
        assert line.split()[-2:] == [str(kind.status), kind.error_type]


def test_statuses_say_who_is_at_fault() -> None:
    for kind in tree(RheostatError):
        is_retryable = issubclass(kind, OverloadedError)
        assert 400 <= kind.status < 500 or not issubclass(kind, ClientError)
        assert kind.status >= 500 or issubclass(kind, ClientError) or is_retryable


def test_a_response_has_type_message_field_and_request_id() -> None:
    response = respond(InvalidRequestError("tasks is wrong", "tasks"), "id-1")
    assert response.status_code == 422
    assert json.loads(bytes(response.body)) == {
        "error": {
            "type": "invalid_request",
            "message": "tasks is wrong",
            "field": "tasks",
            "request_id": "id-1",
        }
    }


def test_a_budget_that_cannot_be_met_says_what_can_and_not_to_retry() -> None:
    error = InfeasibleBudgetError("too small", "macs", 1234)
    response = respond(error, "id-1")
    assert response.status_code == 422
    assert response.headers["x-should-retry"] == "false"
    assert body_of(error)["error"] == {
        "type": "infeasible_budget",
        "message": "too small",
        "field": "budget.macs",
        "request_id": "id-1",
        "feasible": 1234,
    }


@pytest.mark.parametrize(
    ("wait_s", "header", "fine"),
    [(0.0, "1", "10"), (1.0, "1", "1000"), (1.2, "2", "1200"), (60.0, "60", "60000")],
)
def test_overload_tells_when_to_come_back(wait_s: float, header: str, fine: str) -> None:
    response = respond(OverloadedError("full", wait_s), "id-1")
    assert response.status_code == 429
    assert response.headers["Retry-After"] == header
    assert response.headers["retry-after-ms"] == fine


def test_what_the_search_refuses_is_the_clients_fault() -> None:
    error = translate(RequestError("unknown task 'x'", "tasks"))
    assert isinstance(error, InvalidRequestError)
    assert (error.message, error.field) == ("unknown task 'x'", "tasks")


@pytest.mark.parametrize(
    ("status", "expected_status", "error_type"),
    [(404, 404, "unknown_path"), (405, 405, "method_not_allowed"), (400, 422, "invalid_request")],
)
def test_the_frameworks_own_errors_take_our_shape(
    status: int, expected_status: int, error_type: str
) -> None:
    response = respond(HTTPException(status, headers={"Allow": "GET"}), "id-1")
    assert response.status_code == expected_status
    assert response.headers["Allow"] == "GET"
    assert json.loads(bytes(response.body))["error"]["type"] == error_type


def test_faults_of_path_and_query_take_our_shape() -> None:
    fault = {"type": "x", "loc": ("query", "n"), "msg": "Input should be a number", "input": "y"}
    error = body_of(RequestValidationError([fault]))["error"]
    assert error["field"] == "query.n"
    assert error["message"] == "query.n='y' must be a number"


def test_an_error_nobody_foresaw_is_logged_and_keeps_its_text_to_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        response = respond(KeyError("/a/secret/path"), "id-1")
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)
    error = json.loads(bytes(response.body))["error"]
    assert error["type"] == "internal"
    assert error["message"] == "internal error; the server's log has it under the request id"
    assert "/a/secret/path" in caplog.text


def test_foreseen_errors_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        respond(ModelNotReadyError("starting"), "id-1")
        respond(InvalidRequestError("wrong"), "id-1")
    assert not caplog.records


def test_every_fault_of_a_body_is_named_and_the_first_leads() -> None:
    error = fault_in('{"budget": {"macs": -1, "joules": 3}, "task": ["fish"]}')
    assert error.message == "budget.macs=-1 must be greater than 0"
    assert error.field == "budget.macs"
    assert [detail["field"] for detail in error.details] == ["budget.macs", "budget.joules", "task"]
    assert error.details[1]["message"] == (
        "budget.joules is not a field; allowed: flops, macs, fraction, min_quality, "
        "latency_ms, bytes, strict"
    )
    assert error.details[2]["message"] == (
        "task is not a field; allowed: model, tasks, preferences, budget, side, adapter, priority"
    )


def test_a_fault_of_the_whole_says_what_the_whole_is() -> None:
    with pytest.raises(ValidationError) as caught:
        PlanBody.model_validate_json("[1]")
    error = invalid(caught.value, PlanBody, "part request")
    assert error.message == "part request must be an object, not a list of 1"
    assert error.field is None


def test_places_in_lists_are_shown_with_brackets() -> None:
    error = fault_in('{"images": ["", 5]}', InferBody)
    assert error.field == "images[1]"
    assert error.message == "images[1]=5 must be a valid string"


def test_an_unknown_field_of_a_list_s_entry_is_told_the_entry_s_fields() -> None:
    class Entry(BaseModel, extra="forbid"):
        depth: int = 1

    class Whole(BaseModel):
        entries: list[Entry | None] = []

    with pytest.raises(ValidationError) as caught:
        Whole.model_validate_json('{"entries": [{}, {"deep": 1}]}')
    error = invalid(caught.value, Whole, "the body")
    assert error.message == "entries[1].deep is not a field; allowed: depth"


def test_more_faults_than_anybody_reads_are_only_counted() -> None:
    fields = ",".join(f'"wrong{i}": 1' for i in range(200))
    error = fault_in(f"{{{fields}}}")
    assert error.message == "the body has 200 faults; at most 100 are named"
    assert not error.details


def test_a_list_of_wrong_entries_is_refused_at_the_first() -> None:
    error = fault_in(f'{{"images": [{"1," * 100_000}1]}}', InferBody)
    assert [detail["field"] for detail in error.details] == ["images[0]"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("fish", "'fish'"),
        ("a\nb", r"'a\nb'"),
        (1.5, "1.5"),
        (True, "True"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "a dict of 1"),
        (b"abc", "a bytes of 3"),
    ],
)
def test_a_clients_value_is_shown_on_one_line(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", ["x" * 10_000_000, 10**4000])
def test_a_clients_value_is_shown_in_short(value: object) -> None:
    text = shown(value)
    assert len(text) <= 83
    assert text.endswith("...")


def test_the_form_is_that_of_the_path_or_of_the_nearest_folder_above() -> None:
    def form(name: str) -> Form:
        return lambda error, request_id: Response(f"{name} {error.message} {request_id}")

    forms = Forms(
        {
            "/": form("root"),
            "/v2/": form("folder"),
            "/v2/deep/": form("deep"),
            "/v2/one": form("path"),
        }
    )
    error = InvalidRequestError("wrong")
    expected = {"/": "root", "/v2/one": "path", "/v2/two": "folder", "/v2/deep/x": "deep"}
    for path, name in expected.items():
        assert forms.respond(error, scope(path)).body == f"{name} wrong id-1".encode()
    assert forms.respond(error, scope("/v2")).body == respond(error, "id-1").body
    chosen = forms.respond(error, scope("/v2/one", form=form("by the body")))
    assert chosen.body == b"by the body wrong id-1"


class _Inner(BaseModel, extra="forbid"):
    a: int = 0
    b: int = 0


class _Outer(BaseModel, extra="forbid"):
    alone: _Inner | None = None
    listed: list[Annotated[_Inner, Field()]] = []
    mixed: list[str | _Inner] = []


@pytest.mark.parametrize(
    "text", ['{"alone": {"x": 1}}', '{"listed": [{}, {"x": 1}]}', '{"mixed": [{"x": 1}]}']
)
def test_an_unknown_field_is_answered_with_those_of_its_own_level(text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _Outer.model_validate_json(text)
    details = invalid(caught.value, _Outer, "the body").details
    assert any(str(one["message"]).endswith("x is not a field; allowed: a, b") for one in details)


@pytest.mark.parametrize("form", dict.fromkeys((own_form, *FORMS.values())))
def test_whoever_cannot_be_answered_for_now_is_told_when_to_come_back(form: Form) -> None:
    seen = set()
    for sample in SAMPLES:
        response = form(sample, "run-7")
        if response.status_code in (429, 503):
            seen.add(type(sample).__name__)
            assert int(response.headers["retry-after"]) >= 1
            assert int(response.headers["retry-after-ms"]) >= 1
    assert seen == {
        "DatabaseError", "ModelNotReadyError", "OverloadedError", "QuotaExceededError"
    }  # fmt: skip
