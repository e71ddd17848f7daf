"""Options of training commands, which are those of their recipes."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from models.train.cuts import CutsRecipe
from server.cli.main import cli
from server.cli.recipes import takes_recipe


@dataclass(frozen=True)
class Small:
    """A recipe.

    Attributes:
        steps: Of the
            optimiser.
        rate: Peak.
        mirror: Whether some are mirrored.
        names: No option.
        seed: Of draws.
    """

    steps: int = 7
    rate: float = 0.5
    mirror: bool = False
    names: tuple[str, ...] = ("a",)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ValueError(f"rate={self.rate} must be at most 1")


@pytest.fixture
def made() -> list[Any]:
    return []


@pytest.fixture
def app(made: list[Any]) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    @takes_recipe(Small, steps=2)
    def run(name: str = "x", *, recipe: Small) -> None:
        made.append((name, recipe))

    return app


def test_a_command_gets_the_recipe_that_its_options_say(app: typer.Typer, made: list[Any]) -> None:
    runner = CliRunner()
    assert runner.invoke(app, []).exit_code == 0
    words = ["--name", "y", "--steps", "3", "--mirror", "--seed", "-1"]
    assert runner.invoke(app, words).exit_code == 0
    assert made == [("x", Small()), ("y", Small(3, mirror=True, seed=-1))]
    shown = re.sub(r"[^\x20-\x7e]|\s+", " ", runner.invoke(app, ["--help"]).output)
    assert "Of the optimiser." in re.sub(" +", " ", shown)
    assert "--names" not in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--steps", "1"], "steps"), (["--rate", "-1"], "rate"), (["--rate", "2"], "rate=2.0 must")],
)
def test_what_is_out_of_range_is_named(app: typer.Typer, words: list[str], told: str) -> None:
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert told in found.output


def test_every_number_of_a_shipped_recipe_is_an_option() -> None:
    shown = CliRunner().invoke(cli, ["train", "cuts", "--help"], env={"COLUMNS": "200"}).output
    for field in fields(CutsRecipe):
        assert f"--{field.name.replace('_', '-')}" in shown
