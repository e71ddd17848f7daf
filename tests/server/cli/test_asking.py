"""`rheostat plan`, `infer`, `embed` and `rerank`, as people type them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from server.app import create_app
from server.cli.asking import COMMANDS, light
from server.cli.main import cli
from server.cli.wishes import budget_of
from server.settings import KEY, URL, Settings
from tests.server.listening import ROOT, free_port, listening
from tests.server.samples import image
from tests.server.toys import toy_families, write_varied

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server of models that give classes, maps and vectors."""
    with toy_families():
        folder = write_varied(tmp_path_factory.mktemp("asked"))
        database = f"sqlite:///{tmp_path_factory.mktemp('asked') / 'c.db'}"
        settings = Settings(models=folder, policy="fixed", database=database)
        with listening(create_app(settings)) as host:
            yield f"http://{host}"


@pytest.fixture
def run(url: str) -> Run:
    """Run a command that asks the server, which the environment names."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(light, [str(one) for one in arguments], env={URL: url})

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photo.jpg").write_bytes(image())
    return tmp_path / "photo.jpg"


def test_a_plan_is_a_table_and_json_for_machines(run: Run) -> None:
    shown = run("plan", "--model", "tiny", "--budget", "50%", "--prefer", "fish=3")
    assert shown.exit_code == 0
    assert "fish" in shown.output
    assert "FLOPs" in shown.output
    planned = run("plan", "--model", "tiny", "--budget", "50%", "--prefer", "fish=3", "--json")
    receipt = json.loads(planned.output)
    assert receipt["fraction"] <= 0.5
    assert receipt["preferences"]["fish"] == 1


def test_maps_are_written_as_files(run: Run, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    shown = run("infer", photo, "--model", "maps", "--budget", "50%", "--out", out)
    assert shown.exit_code == 0, shown.output
    with Image.open(out / "photo-parts.png") as parts:
        size = parts.size
    depth = np.load(out / "photo-depth.npy")
    assert depth.dtype == np.float32
    assert depth.shape == (1, size[1], size[0])
    assert (out / "photo-depth.png").exists()
    assert "map" in shown.output


def test_classes_of_an_image_by_name_are_those_of_the_file(run: Run, photo: Path) -> None:
    by_file = json.loads(run("infer", photo, "--model", "tiny", "--json").output)
    by_name = run("infer", "--input", f"image=@{photo}", "--model", "tiny", "--json")
    assert json.loads(by_name.output)["outputs"] == by_file["outputs"]
    assert "%" in run("infer", photo, "--model", "tiny", "--task", "fish").output


def test_vectors_are_written_for_numpy(run: Run, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("w1 w2\n\nw3\n")
    out = tmp_path / "v.npy"
    shown = run("embed", "w4", "--file", tmp_path / "texts", "--out", out, "--budget", "60%")
    assert shown.exit_code == 0, shown.output
    vectors = np.load(out)
    assert len(vectors) == 3
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_texts_are_ranked(run: Run) -> None:
    shown = run("rerank", "w1 w2", "w5 w6", "w1 w2", "w7", "--top", 2, "--in-stages")
    assert shown.exit_code == 0, shown.output
    assert "whole" in shown.output
    found = json.loads(run("rerank", "w1 w2", "w5 w6", "w1 w2", "w7", "--json").output)
    assert found["results"][0]["index"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "--model", "tiny", "--budget", "1FLOPs"], 3, "the cheapest subnet needs"),
        (["plan", "--model", "none"], 2, "'none' is not served"),
        (["plan", "--budget", "half"], 2, "--budget=half must be like 50%, 30MFLOPs"),
        (["plan", "--budget", "50%", "--budget", "20 %"], 2, "a limit of fraction already"),
        (["plan", "--min-quality", "0.9"], 2, "--min-quality=0.9 must be per cent"),
        (["plan", "--prefer", "fish"], 2, "--prefer=fish must be TASK=WEIGHT"),
        (["infer"], 2, "give images or --input"),
        (["infer", "none.jpg"], 2, "No such file"),
        (["infer", "--input", "text"], 2, "must be NAME=TEXT or NAME=@FILE"),
        (["embed"], 2, "no texts are given"),
        (["embed", "w1", "--out", "v.txt"], 2, "must end in .npy"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_and_a_code(
    run: Run, arguments: list[str], code: int, message: str
) -> None:
    ended = run(*arguments)
    assert ended.exit_code == code
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_a_server_that_is_away_has_a_code_of_its_own(run: Run) -> None:
    ended = run("plan", "--url", f"http://127.0.0.1:{free_port()}")
    assert ended.exit_code == 6
    assert "no server answers at http://127.0.0.1:" in ended.stderr


def test_a_key_comes_from_the_environment(folder: Path, run: Run, tmp_path: Path) -> None:
    settings = Settings(models=folder, database=f"sqlite:///{tmp_path / 'c.db'}")
    with listening(create_app(settings)) as host, pytest.MonkeyPatch.context() as patch:
        made = httpx.post(f"http://{host}/v1/keys", json={"scopes": ["infer"]}).json()
        assert run("plan", "--url", f"http://{host}").exit_code == 4
        patch.setenv(KEY, made["key"])
        assert run("plan", "--url", f"http://{host}").exit_code == 0


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("50%", "fraction", 0.5),
        ("30MFLOPs", "flops", 3e7),
        ("1.5e7flops", "flops", 1.5e7),
        ("15 MMACs", "macs", 1.5e7),
        ("20ms", "latency_ms", 20),
        ("2s", "latency_ms", 2000),
        ("40MB", "bytes", 4e7),
    ],
)
def test_a_budget_has_the_unit_that_is_typed(text: str, field: str, value: float) -> None:
    budget = budget_of([text], None)
    assert budget is not None
    assert getattr(budget, field) == pytest.approx(value)


@pytest.mark.slow
def test_models_are_run_here_where_no_server_is_named(folder: Path, photo: Path) -> None:
    command = [sys.executable, "-m", "server", "infer", str(photo), "--budget", "60%", "--json"]
    done = subprocess.run(
        [*command, "--models", str(folder), "--model", "tiny"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["receipt"]["fraction"] <= 0.6
    assert set(answer["outputs"][0]) == {"fish", "flowers", "people"}


def test_asking_a_server_imports_no_tensor_library() -> None:
    program = "import sys; from server.cli.asking import light; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_the_whole_command_line_has_these_commands_and_completion() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    for command in COMMANDS:
        assert f" {command.__name__} " in shown
    assert "--install-completion" in shown
