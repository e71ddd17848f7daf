from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.main import cli


def test_calibrate_measures_keeps_and_says_how_well_it_predicts(
    folder: Path, tmp_path: Path
) -> None:
    options = ["calibrate", "--models", str(folder), "--profiles", str(tmp_path)]
    result = CliRunner().invoke(cli, options)
    assert result.exit_code == 0, result.output
    assert "tiny: " in result.output
    assert "96 runs predicted with an error of" in result.output
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["tiny-"]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--models", "/nowhere"], "is not a folder"), (["--device", "tpu"], "device=tpu")],
)
def test_what_cannot_be_calibrated_is_named(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["calibrate", *options])
    assert result.exit_code in (1, 2)
    assert message in result.output
