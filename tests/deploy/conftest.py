from __future__ import annotations

import contextlib
import warnings

from tests.server.conftest import no_settings_around

__all__ = ["no_settings_around"]

# Ray's own modules warn of deprecated ways to use pydantic when they are first imported.
with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore")
    import ray.serve  # noqa: F401
