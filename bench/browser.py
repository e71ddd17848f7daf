"""A headless Chromium, for tests of the page and for pictures of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """Return the path of an installed Chromium; None if there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start it, and end it afterwards.

    Raises:
        FileNotFoundError: If none is installed.
    """
    path = chromium()
    if path is None:
        raise FileNotFoundError(f"none of {', '.join(_NAMES)} is installed")
    with sync_playwright() as playwright:
        # As root, as in containers, it starts without its sandbox only.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield running
        finally:
            running.close()
