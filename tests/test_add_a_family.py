"""The family of `docs/add-a-family.md` is written, measured, served and asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from models import checkpoint, families
from models.backends.torch import TorchBackend
from search.quality.measure import measure
from search.quality.table import TABLE
from server.app import create_app
from server.settings import Settings

ROOT = Path(families.__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-family.md").read_text()
FAMILY, SERVED = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
(ASKED,) = re.findall(r"-d '(\{.*?\})'", PAGE, re.DOTALL)


def test_the_family_of_the_page_is_short() -> None:
    assert len(FAMILY.splitlines()) < 100


def test_the_family_of_the_page_is_served_at_every_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "perceptron.py").write_text(FAMILY)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path / "families")])
    family = families.get("perceptron")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "Perceptron": family.build,
        "PerceptronConfig": family.config,
        "features": torch.rand(60, 4, generator=generator),
        "labels": torch.randint(0, 3, (60,), generator=generator),
        "measure": measure,
        "TorchBackend": TorchBackend,
        "TABLE": TABLE,
        "checkpoint": checkpoint,
        "torch": torch,
        "folder": tmp_path / "models",
    }
    exec(compile(SERVED, "docs/add-a-family.md", "exec"), given)  # the page's own lines
    settings = Settings(models=tmp_path / "models", profiles=tmp_path / "profiles", backend="torch")
    settings = settings.model_copy(update={"database": f"sqlite:///{tmp_path}/clients.db"})
    with TestClient(create_app(settings)) as client:
        json = {"content-type": "application/json"}
        answer = client.post("/v1/infer", content=ASKED, headers=json).json()
        assert answer["receipt"]["subnet"]["width"] <= 16
        assert answer["receipt"]["fraction"] <= 0.5
        item = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        width = int(answer["receipt"]["subnet"]["width"])
        model = given["model"]
        expected = model.run_head(model.run_hidden(width, item))[0].softmax(-1).tolist()
        found = list(answer["outputs"][0]["kind"]["probabilities"].values())
        np.testing.assert_allclose(found, expected, atol=1e-6)
