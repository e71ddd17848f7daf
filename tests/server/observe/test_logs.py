from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from server.app import create_app
from server.clients.caller import Caller
from server.http.forms import Forms
from server.http.middleware import RequestId
from server.inputs.turns import Turns
from server.observe import logs
from server.settings import Settings
from tests.server.backends import FailingBackend
from tests.server.samples import Connection, image, run, text_of
from tests.server.written import FORMS, Written

log = logging.getLogger("tests.logs")

FORGED = "2026-01-01 00:00:00,000 INFO server [-]: forged"
NASTY = [f"a{end}{FORGED}" for end in ("\n", "\r", "\r\n", "\x0b", "\x85", "\u2028", "\x1b[2J")]


def test_a_record_outside_of_requests_has_level_logger_message_time_and_no_id(
    written: Written,
) -> None:
    log.warning("%d of %d", 1, 2)
    (record,) = written.records
    assert record.pop("time").endswith("+00:00")
    assert record == {"level": "WARNING", "logger": "tests.logs", "message": "1 of 2"}
    (line,) = written.lines("console")
    assert line.endswith(" WARNING tests.logs [-]: 1 of 2")


@pytest.mark.parametrize("text", [*NASTY, "\ud800"], ids=ascii)
def test_no_text_breaks_a_line_or_is_lost(written: Written, text: str) -> None:
    log.info("%s", text)
    (line,) = written.lines("console")
    assert line.isprintable()
    (raw,) = written.lines("json")
    assert raw.isascii()
    assert raw.isprintable()
    assert json.loads(raw)["message"] == text


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_a_traceback_holds_no_line_that_looks_like_a_record(written: Written, text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    first, *rest = written.lines("console")
    assert first.endswith(" ERROR tests.logs [-]: failed")
    assert any("ValueError" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    (record,) = written.records
    assert record["exc_info"].endswith(f"ValueError: {text}")


def test_a_traceback_that_another_handler_has_spelled_is_spelled_anew(written: Written) -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = log.makeRecord("x", logging.ERROR, "", 1, "failed", (), sys.exc_info())
    logging.Formatter().format(record)
    log.handle(record)
    assert all(line.startswith("    ") for line in written.lines("console")[1:])


def test_a_request_is_one_line_with_its_template_status_time_id_and_model(
    client: TestClient, written: Written
) -> None:
    body = {"image": text_of(image())}
    client.post("/v1/infer", json=body, headers={"x-request-id": "run-7"})
    client.post("/v1/plan", json={})
    client.get("/v1/models/tiny")
    client.get("/v1/models/huge")
    infer, plan, found, missing = written.access()
    assert 0 < infer.pop("duration_ms") < 60_000
    assert infer.pop("message").startswith("POST /v1/infer 200 ")
    assert infer.pop("time")
    assert infer == {
        "level": "INFO",
        "logger": "rheostat.access",
        "method": "POST",
        "path": "/v1/infer",
        "status": 200,
        "request_id": "run-7",
        "model": "tiny",
    }
    assert (plan["path"], plan["status"], plan["model"]) == ("/v1/plan", 200, "tiny")
    assert (found["path"], found["status"]) == ("/v1/models/{model}", 200)
    assert (missing["path"], missing["status"]) == ("/v1/models/{model}", 404)
    lines = [line for line in written.lines("console") if "rheostat.access" in line]
    assert "[run-7]: POST /v1/infer 200 " in lines[0]
    assert lines[0].endswith(" ms model=tiny")


def test_neither_payload_nor_key_nor_query_string_is_logged(
    client: TestClient, written: Written
) -> None:
    payload = text_of(image())
    headers = {"x-api-key": "hush-key", "authorization": "Basic hush-basic"}
    client.post("/v1/infer?key=hush-query", json={"image": payload}, headers=headers)
    client.post("/v1/nothing?key=hush-query", json={"image": payload}, headers=headers)
    assert [one["path"] for one in written.access()] == ["/v1/infer", "/v1/nothing"]
    for form in FORMS:
        # Of the server, that is: the test's client logs as well, and logs its URL.
        text = "\n".join(line for line in written.lines(form) if "httpx" not in line)
        assert "hush" not in text
        assert payload[:40] not in text


def test_a_path_that_is_none_of_ours_is_quoted_and_cut(
    client: TestClient, written: Written
) -> None:
    client.get("/no%0Aroute%E2%80%A8%1B" + "x" * 5000)
    (line,) = written.access()
    assert line["status"] == 404
    assert line["path"].startswith("/no%0Aroute%E2%80%A8%1Bxxx")
    assert len(line["path"]) < 300


@pytest.mark.parametrize("path", sorted(logs.PROBES))
def test_probes_are_logged_at_debug_alone(
    client: TestClient, written: Written, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    client.get(path)
    assert not written.access()
    with caplog.at_level(logging.DEBUG):
        client.get(path)
    (line,) = written.access()
    assert (line["level"], line["status"]) == ("DEBUG", 200)


def test_a_failed_run_is_logged_with_the_request_as_well_as_with_its_batch(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, written: Written
) -> None:
    backend = FailingBackend()
    monkeypatch.setattr("server.app.make_backend", lambda settings: backend)
    with TestClient(create_app(settings)) as client:
        backend.error = ValueError("no memory")
        body = {"image": text_of(image())}
        client.post("/v1/infer", json=body, headers={"x-request-id": "run-7"})
    errors = {one["logger"]: one for one in written.records if one["level"] == "ERROR"}
    assert errors["server.http.forms"]["request_id"] == "run-7"
    assert errors["server.http.forms"]["message"] == "the model failed on this request"
    assert "no memory" in errors["server.engine.worker"]["exc_info"]


async def talk(scope: Scope, receive: Receive, send: Send) -> None:
    """Log, wait for the body, log again from here and from a thread, answer."""
    scope["state"]["caller"] = Caller(client="acme")
    log.info("before")
    await receive()
    log.info("after")
    turns = Turns(2)
    await turns.map(log.info, ["thread"] * 4, [1.0] * 4)
    turns.close()
    await PlainTextResponse("done")(scope, receive, send)
    if scope["path"] == "/fail-late":
        raise ZeroDivisionError


def test_every_line_of_a_request_has_its_id_also_between_others_and_in_threads(
    written: Written,
) -> None:
    async def scenario() -> None:
        app = RequestId(talk, Forms({}))
        connections = [Connection("/", {"x-request-id": name}) for name in ("one", "two")]
        serving = [asyncio.ensure_future(one.serve(app)) for one in connections]
        for one in reversed(connections):
            await asyncio.sleep(0)
            one.body(b"")
        await asyncio.gather(*serving)
        log.info("nobody")

    run(scenario())
    said = [(one["message"], one.get("request_id")) for one in written.records]
    for name in ("one", "two"):
        texts = [text for text, request_id in said if request_id == name]
        assert texts[:6] == ["before", "after", *["thread"] * 4]
        assert texts[6].startswith("POST / 200 ")
        assert texts[6].endswith(" client=acme")
    assert ("nobody", None) in said
    assert len(said) == 15
    assert {one["client"] for one in written.access()} == {"acme"}


def test_an_answer_that_breaks_off_is_logged_with_the_status_that_was_sent(
    written: Written,
) -> None:
    async def scenario() -> None:
        connection = Connection("/fail-late", {})
        connection.body(b"")
        with pytest.raises(ZeroDivisionError):
            await connection.serve(RequestId(talk, Forms({})))

    run(scenario())
    assert [one["status"] for one in written.access()] == [200]


def test_warnings_and_other_libraries_go_the_same_way() -> None:
    """In a process of its own, as the root logger of this one is pytest's."""
    code = (
        "import logging, warnings; from server.observe import logs; logs.configure('json', 'info');"
        "logging.getLogger('uvicorn.error').info('x'); logging.getLogger('y').debug('y');"
        "warnings.warn('w')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert [one["logger"] for one in records] == ["uvicorn.error", "py.warnings"]
    assert not done.stdout
