"""The README and the architecture page say what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import models
from server.metrics import Metrics
from server.settings import PREFIX, Settings

ROOT = Path(models.__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_setting_is_in_the_readme() -> None:
    missing = [n for n in Settings.model_fields if f"{PREFIX}{n.upper()}`" not in README]
    assert not missing


def test_every_metric_is_in_the_readme_and_no_other() -> None:
    metrics = Metrics(["tiny"], 8)
    metrics.tell_build(version="0", torch="0", backend="torch", device="cpu")
    text = metrics.text().decode()
    names = {
        n for n in re.findall(r"^# TYPE (\w+)", text, flags=re.M) if not n.endswith("_created")
    }
    assert names == set(re.findall(r"`(rheostat_\w+)`", README))


def test_every_file_that_the_architecture_page_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`((?:models|search|server|client)/[\w/.*]+)`", page):
        assert list(ROOT.glob(name)), name


def test_relative_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
