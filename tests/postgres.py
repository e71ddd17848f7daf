"""PostgreSQL for tests, which are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bench import postgres
from bench.postgres import Cluster as Cluster


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a server; skip the test, with the reason, where that cannot be."""
    with ExitStack() as stack:
        try:
            running = stack.enter_context(postgres.cluster())
        except postgres.MissingError as error:
            pytest.skip(str(error))
        yield running
