"""Pictures of the page for README and guides: `python -m bench.screens` writes them anew.

It serves the shipped models, or those of `--models`, and looks at the page as a reader does. Of
answers the picture shows maps where a model gives some, else texts in order.
"""

from __future__ import annotations

import io
import sys
from argparse import ArgumentParser
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, expect

from bench.browser import browser
from bench.charts import IMAGES
from bench.peers.process import HOST, Launch, ServerError, running

WIDTH, HEIGHT = 1120, 800
MAX_BYTES = 120_000
_COLOURS = 96
_REST_MS = 400  # until what moves has come to rest


def main() -> None:
    """Write both pictures."""
    options = ArgumentParser(description=__doc__)
    options.add_argument("--models", type=Path, help="folder of checkpoints; default: shipped ones")
    options.add_argument("--out", type=Path, default=IMAGES)
    given = options.parse_args()
    command = [sys.executable, "-m", "server", "serve", "--port", "{port}", "--policy", "fixed"]
    command += ["--database", "sqlite:///clients.db"]
    if given.models is not None:
        command += ["--models", str(given.models.resolve())]
    launch = Launch((*command,), {"PYTHONPATH": str(Path(__file__).parent.parent)})
    body = b'{"input": "a text"}'
    try:
        with running(launch, 1, body) as server, browser() as chromium:
            server.rest()
            url = f"http://{HOST}:{server.port}"
            page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            for name, picture in (("page.png", _budgets), ("answers.png", _answers)):
                content = _small(picture(page, url))
                if len(content) > MAX_BYTES:
                    sys.exit(f"{name} has {len(content)} bytes; at most {MAX_BYTES} are committed")
                (given.out / name).write_bytes(content)
                print(given.out / name, len(content), "bytes")
    except (ServerError, FileNotFoundError) as error:
        sys.exit(str(error))


def _budgets(page: Page, url: str) -> bytes:
    """Return the top of the page: the front of the model with most tasks, at a quarter of it."""
    models = httpx.get(f"{url}/v1/models").raise_for_status().json()["data"]
    most = max(models, key=lambda one: len(one["tasks"]))["id"]
    _open(page, url, most)
    page.locator("#budget-a").fill("50")
    for slider in page.locator("#tasks input").all()[:2]:
        slider.fill("3")
        slider.blur()
    page.wait_for_timeout(3 * _REST_MS)
    return page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": HEIGHT})


def _answers(page: Page, url: str) -> bytes:
    """Return answers at two budgets, side by side."""
    listed = httpx.get(f"{url}/v1/models").raise_for_status().json()["data"]
    models = [httpx.get(f"{url}/v1/models/{one['id']}").json() for one in listed]
    kinds = {one["id"]: {task["kind"] for task in one["task_details"].values()} for one in models}
    maps = next((name for name, found in kinds.items() if "map" in found), None)
    texts = next(name for name, found in kinds.items() if "embedding" in found)
    _open(page, url, maps or texts)
    page.locator("#budget-a").fill("20")
    for name in (*(["Draw one"] if maps else []), "Answer at both", "Answer at both"):
        page.get_by_role("button", name=name).click()  # the first answers of a server take longer
        expect(page.locator(".answer.b .receipt")).to_be_visible()
        page.wait_for_timeout(2 * _REST_MS)
    return page.locator("#ask").screenshot()


def _open(page: Page, url: str, model: str) -> None:
    page.goto(f"{url}/ui?model={model}")
    for side in ("a", "b"):
        expect(page.locator(f"[data-pick={side}][data-flops]")).to_be_visible()
    page.wait_for_timeout(2 * _REST_MS)


def _small(png: bytes) -> bytes:
    """Return a picture in few colours, of which the page has no more."""
    file = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(_COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
