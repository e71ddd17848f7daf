from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.main import cli
from server.clients.database import Database
from server.clients.keys import Key, id_of
from server.clients.store import Store
from tests.server.listening import DEADLINE_S, ROOT


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'clients.db'}"


def invoke(url: str, *arguments: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(cli, ["keys", *arguments, "--database", url])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def stored(url: str) -> list[Key]:
    async def read() -> list[Key]:
        database = Database(url)
        found = await Store(database, 1).keys()
        await database.close()
        return found

    return asyncio.run(read())


def test_a_key_is_printed_once_alone_on_its_line(url: str) -> None:
    out, err = invoke(
        url, "create", "--scope", "admin", "--scope", "infer", "--label", "ops",
        "--expires-days", "2",
    )  # fmt: skip
    text = out.removesuffix("\n")
    (key,) = stored(url)
    assert key.matches(text)
    assert id_of(text) == key.id
    assert key.expires == key.created + 2 * 86_400
    assert err == f"id {key.id}; keep the key, it is not shown again\n"
    out, _ = invoke(url, "list")
    assert out.startswith(f"{key.id}  admin,infer  -  created ")
    assert out.rstrip().endswith("ops")
    assert text not in out


def test_a_revoked_key_is_listed_as_such(url: str) -> None:
    invoke(url, "create", "--scope", "metrics")
    (key,) = stored(url)
    invoke(url, "revoke", key.id)
    assert "revoked" in invoke(url, "list")[0]
    assert stored(url)[0].revoked is not None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["revoke", "0"], 1, "key '0' is not known"),
        (["create", "--scope", "infer", "--client", "shop"], 1, "client 'shop' is not known"),
        (["create"], 2, "Missing option '--scope'"),
        (["create", "--scope", "all"], 2, "'all' is not one of"),
        (["create", "--scope", "infer", "--client", "a b"], 2, "client='a b' must match ^[A-Z"),
        (["create", "--scope", "infer", "--label", "a\nb"], 2, r"label='a\nb' must be at most 200"),
        (["create", "--scope", "infer", "--label", "\udcff"], 2, r"label='\udcff' must be"),
        (["create", "--scope", "infer", "--label", "x" * 201], 2, "must be at most 200 characters"),
        (["revoke", "\udcff"], 1, r"key '\udcff' is not known"),
    ],
)
def test_a_wrong_command_ends_with_one_line(
    url: str, arguments: list[str], code: int, message: str
) -> None:
    _, err = invoke(url, *arguments, code=code)
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("days", ["0", "-1", "1e-9", "nan", "inf", "36501", "1e300"])
def test_a_key_that_would_never_work_or_outlive_everybody_is_refused(url: str, days: str) -> None:
    _, err = invoke(url, "create", "--scope", "infer", "--expires-days", days, code=2)
    assert err == (
        f"rheostat: --expires-days={float(days):g} must be a second (1.2e-05) at least and 36500 "
        "at most\n"
    )
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_a_key_of_a_hundred_years_is_listed(url: str) -> None:
    invoke(url, "create", "--scope", "infer", "--expires-days", "36500")
    assert "expires 2" in invoke(url, "list")[0]


def test_a_wrong_setting_in_the_environment_is_one_line(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RHEOSTAT_MAX_CLIENTS", "0")
    assert invoke(url, "list", code=2)[1] == (
        "rheostat: max_clients=0: Input should be greater than 0\n"
    )


def test_a_wrong_database_ends_with_code_2() -> None:
    assert "must be sqlite:///FILE or postgresql://" in invoke("mysql://x", "list", code=2)[1]


def test_serving_another_address_without_keys_ends_with_code_2_before_models_are_read(
    url: str, tmp_path: Path
) -> None:
    arguments = ["serve", "--models", str(tmp_path / "none"), "--host", "0.0.0.0"]
    result = CliRunner().invoke(cli, [*arguments, "--database", url])
    assert result.exit_code == 2
    assert result.stderr.startswith("rheostat: host=0.0.0.0 can be reached from elsewhere")


@pytest.mark.parametrize("command", [["keys", "list"], ["serve", "--models", "none"]])
@pytest.mark.parametrize(
    "database",
    [
        "sqlite:///{folder}",
        "sqlite:///{folder}/text",
        "sqlite:///{folder}/text/clients.db",
        "sqlite:////proc/1/clients.db",  # where nobody may make a file
        "sqlite:////dev/full",
        "postgresql://me:hunter2@127.0.0.1:1/clients?sslmode=require",
    ],
)
def test_a_database_that_cannot_be_used_ends_a_process_with_one_line(
    tmp_path: Path, command: list[str], database: str
) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be taken for one\n" * 20)
    url = database.format(folder=tmp_path)
    program = [sys.executable, "-m", "server", *command, "--database", url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=DEADLINE_S, cwd=ROOT)
    assert done.returncode == 1
    assert re.fullmatch(r"rheostat: database=\S+ cannot be used: .+\n", done.stderr), done.stderr
    assert "hunter2" not in done.stderr
    assert not done.stdout
