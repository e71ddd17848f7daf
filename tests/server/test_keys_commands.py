from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.__main__ import cli
from server.clients.database import Database
from server.clients.keys import Key, id_of
from server.clients.store import Store


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
    ],
)
def test_a_wrong_command_ends_with_one_line(
    url: str, arguments: list[str], code: int, message: str
) -> None:
    _, err = invoke(url, *arguments, code=code)
    assert message in err
    assert "Traceback" not in err


def test_a_wrong_database_ends_with_code_2() -> None:
    assert "must be sqlite:///FILE or postgresql://" in invoke("mysql://x", "list", code=2)[1]


def test_serving_another_address_without_keys_ends_with_code_2_before_models_are_read(
    url: str, tmp_path: Path
) -> None:
    arguments = ["serve", "--models", str(tmp_path / "none"), "--host", "0.0.0.0"]
    result = CliRunner().invoke(cli, [*arguments, "--database", url])
    assert result.exit_code == 2
    assert result.stderr.startswith("rheostat: host=0.0.0.0 can be reached from elsewhere")
