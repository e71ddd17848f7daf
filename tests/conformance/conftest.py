from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models import families
from models.run.backend import Backend
from tests.conformance.backends import BACKENDS, read_operators_once
from tests.conformance.fixtures.toys import TOYS
from tests.conformance.subject import Made, Subject
from tests.conformance.subjects import SUBJECTS


@pytest.fixture(scope="module", params=SUBJECTS, ids=lambda subject: subject.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A subject's model; tests must leave it as it is."""
    subject: Subject = request.param
    return Made(subject, tmp_path_factory.mktemp(subject.name))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys are families that checkpoints may name."""
    shipped = families.get
    monkeypatch.setattr(families, "get", lambda name: TOYS.get(name) or shipped(name))


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """A back end by its name in `tests.conformance.backends.BACKENDS`."""
    with pytest.MonkeyPatch.context() as patch:
        read_operators_once(patch)
        # Products of TensorFloat-32 differ from those of other sizes of batches by 1e-3.
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        backend = BACKENDS[request.param]()
        yield backend
        backend.close()
