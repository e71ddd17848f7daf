from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner
from uvicorn.config import STARTUP_FAILURE

from server.cli.main import cli
from server.settings import PREFIX, Settings
from tests.server.listening import DEADLINE_S, free_port, server
from tests.server.samples import image, text_of
from tests.tiny import write_overflowing


def test_the_process_serves_until_it_is_told_to_end(folder: Path) -> None:
    port = free_port()
    with server(folder, port) as process:
        transport = httpx.HTTPTransport(retries=3)
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(transport=transport, base_url=address, timeout=DEADLINE_S) as client:
            assert client.get("/readyz").json() == {"ready": True}
            answer = client.post("/v1/infer", json={"image": text_of(image())})
            assert answer.status_code == 200
            assert answer.json()["receipt"]["model"] == "tiny"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
        assert "Application shutdown complete" in output
        assert "Traceback" not in output
        # Uvicorn ends in good order, then lets the signal have its way.
        assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("command", ["serve", "models"])
def test_a_folder_without_models_ends_with_one_line(command: str, tmp_path: Path) -> None:
    arguments = [command, "--models"] if command == "serve" else [command]
    result = CliRunner().invoke(cli, [*arguments, str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"rheostat: {tmp_path} holds no checkpoint")
    assert result.stderr.count("\n") == 1


def test_a_model_that_gives_no_numbers_ends_the_start_with_a_line(tmp_path: Path) -> None:
    write_overflowing(tmp_path / "tiny")
    command = [sys.executable, "-m", "server", "serve", "--models", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--port", str(free_port())], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert ended.returncode == STARTUP_FAILURE
    assert "tiny cannot be served: " in ended.stderr
    assert "task 'fish': the answer is not finite; subnet {'encoder.stage1': " in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--port", "0", "port=0: Input should be greater than or equal to 1"),
        ("--device", "gpu", "device=gpu: String should match pattern"),
        ("--max-images", "5000", "max_images=5000 exceeds max_queue=4096"),
        ("--max-texts", "5000", "max_texts=5000 exceeds max_queue=4096"),
        ("--log-level", "loud", "log_level=loud: Input should be 'debug', "),
        ("--grpc-port", "8000", "grpc_port=8000 is port as well"),
        ("--host", "", "host=: String should have at least 1 character"),
        ("--port", "http", "Invalid value for '--port'"),
    ],
)
def test_a_bad_option_ends_with_code_2(folder: Path, option: str, value: str, message: str) -> None:
    result = CliRunner().invoke(cli, ["serve", "--models", str(folder), option, value])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_port_that_is_taken_is_found_before_models_are_loaded(
    tmp_path: Path, option: str, host: str
) -> None:
    """The folder has no models, and nobody comes as far as to say so."""
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    where = {"localhost": "127.0.0.1"}.get(host, host)
    with socket.create_server((where, 0), family=family) as taken:
        port = taken.getsockname()[1]
        arguments = ["serve", "--models", str(tmp_path), "--host", host, option, str(port)]
        if option == "--grpc-port":
            arguments += ["--port", str(free_port())]
        result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 3
    shown, setting = f"[{host}]" if ":" in host else host, option[2:].replace("-", "_")
    assert result.stderr == (
        f"rheostat: {setting}={port}: cannot listen on {shown}:{port}: Address already in use\n"
    )


def test_a_host_that_is_none_is_found_before_models_are_loaded(tmp_path: Path) -> None:
    for host, words in (("nosuch.invalid", "host=nosuch.invalid: "), ("192.0.2.1", "192.0.2.1:")):
        arguments = ["--host", host, "--models", str(tmp_path), "--open"]
        result = CliRunner().invoke(cli, ["serve", *arguments])
        assert result.exit_code == 3
        assert words in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_device_that_is_not_there_ends_with_code_2(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["serve", "--models", str(folder), "--device", "cuda:99"])
    assert result.exit_code == 2
    assert result.stderr.startswith("rheostat: device=cuda:99: torch sees ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RHEOSTAT_MAX_QUEUE", "max_queue=many: Input should be a valid integer"),
        ("RHEOSTAT_MAXQUEUE", "RHEOSTAT_MAXQUEUE is no setting; did you mean RHEOSTAT_MAX_QUEUE?"),
    ],
)
def test_a_bad_variable_ends_with_code_2_and_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setenv(name, "many")
    for arguments in (["serve", "--models", str(folder)], ["models", str(folder)]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("rheostat: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_models_are_listed_with_name_family_and_folder(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["models", str(folder)])
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert line.startswith("tiny  slimmable  1  ")
    assert line.endswith(f" MB  {folder / 'tiny'}")


def test_help_names_each_setting_with_its_variable_and_default() -> None:
    result = CliRunner().invoke(cli, ["serve", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    words = result.stdout.split()
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in words
        assert f"[{PREFIX}{name.upper()}]" in words
    assert "(4096)]" in words


def test_calibrating_takes_the_settings_that_it_heeds() -> None:
    result = CliRunner().invoke(cli, ["calibrate", "--help"], env={"COLUMNS": "200"})
    words = result.stdout.split()
    assert {"--models", "--num-threads", "--seed"} <= set(words)
    assert "--port" not in words


def test_without_a_command_help_is_shown() -> None:
    result = CliRunner().invoke(cli, [])
    assert "serve" in result.output
    assert "models" in result.output
