"""All models that the kit tests: each shipped family's, and the toys'."""

from __future__ import annotations

import importlib

from models import families
from tests.conformance.fixtures.toys import SUBJECTS as TOYS
from tests.conformance.subject import Subject


def of_family(name: str) -> list[Subject]:
    """Return the subjects of a shipped family; ModuleNotFoundError if it has no fixture."""
    module = importlib.import_module(f"tests.conformance.fixtures.{name}")
    found: list[Subject] = module.SUBJECTS
    return found


SUBJECTS = [subject for name in families.names() for subject in of_family(name)] + TOYS
