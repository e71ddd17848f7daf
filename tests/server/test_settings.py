from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import models
from models.inputs.text import MAX_TEXT_CHARS
from server.settings import MIB, Settings


def test_everything_has_a_default() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 8000, "cpu")
    assert settings.max_body_bytes == 20 * MIB
    assert settings.models_folder == Path(models.__file__).parent / "zoo"


def test_the_environment_goes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHEOSTAT_MAX_BATCH_SIZE", "7")
    monkeypatch.setenv("RHEOSTAT_MODELS", "/models")
    settings = Settings()
    assert settings.max_batch_size == 7
    assert settings.models_folder == Path("/models")


def test_what_is_passed_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHEOSTAT_PORT", "9000")
    assert Settings(port=9001).port == 9001


def test_case_of_environment_variables_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("rheostat_port", "9000")
    assert Settings().port == 9000


@pytest.mark.parametrize("name", ["RHEOSTAT_MAX_BATCHSIZE", "rheostat_max_batchsize"])
def test_a_misspelt_variable_is_refused_with_the_nearest_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "64")
    message = "RHEOSTAT_MAX_BATCHSIZE is no setting; did you mean RHEOSTAT_MAX_BATCH_SIZE?"
    with pytest.raises(ValidationError, match=message):
        Settings()


def test_a_variable_like_no_setting_is_refused_with_all_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RHEOSTAT_QQQQ", "1")
    with pytest.raises(
        ValidationError, match=r"RHEOSTAT_QQQQ is no setting; .* or RHEOSTAT_HOST or "
    ):
        Settings()


def test_trainings_variable_and_other_programs_variables_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RHEOSTAT_DATA", "/data")
    monkeypatch.setenv("RHEOSTATS", "1")
    monkeypatch.setenv("PORT", "1")
    assert Settings().port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0),
        ("port", 65536),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("num_threads", 0),
        ("max_body_bytes", 0),
        ("max_images", 0),
        ("max_batch_size", -1),
        ("max_queue", 0),
        ("log_level", "loud"),
        ("log_format", "xml"),
        ("drain_s", -1),
        ("drain_s", float("inf")),
        ("grace_s", 0),
        ("traces", "collector:4318"),
        ("traces", "http://collector:4318"),
        ("traces", "http://name:word@collector:4318/v1/traces"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_a_value_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RHEOSTAT_PORT", "http")
    with pytest.raises(ValidationError, match="port"):
        Settings()


def test_a_request_must_fit_into_the_queue() -> None:
    with pytest.raises(ValidationError, match="max_images=9 exceeds max_queue=8"):
        Settings(max_images=9, max_queue=8)


def test_settings_cannot_be_changed_or_invented() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Settings(colour="red")  # type: ignore[call-arg]


def test_the_limit_of_characters_is_that_of_models() -> None:
    assert Settings().max_text_chars == MAX_TEXT_CHARS
