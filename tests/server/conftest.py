from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient

from models.families.exits import Exits
from server import catalog
from server.app import create_app
from server.engine.engine import Engine
from server.errors import OverloadedError
from server.inputs.decoder import Decoder
from server.observe import logs
from server.served import Served
from server.settings import DATA, PREFIX, Settings
from tests.server.written import Written
from tests.tiny import write_checkpoint
from tests.tiny_headed import CLASSIFIER, CROSS_ENCODER, write_classifier, write_cross_encoder
from tests.tiny_text import write_text_checkpoint

MAX_IMAGES = 4
MAX_BODY_BYTES = 1_000_000
MAX_PIXELS = 100_000_000


@pytest.fixture(scope="session", autouse=True)
def no_settings_around(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the settings and the cache of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(PREFIX) and name.upper() != DATA:  # no setting
                patch.delenv(name)
        # ONNX Runtime's graphs would be exported beside the tests, by processes of their own.
        patch.setenv(f"{PREFIX}BACKEND", "torch")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny checkpoint."""
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "tiny")
    return folder


@pytest.fixture(scope="session")
def served(folder: Path) -> Served:
    """The tiny model, for comparison: not the object the app has."""
    return catalog.load(folder)["tiny"]


@pytest.fixture(scope="session")
def settings(folder: Path) -> Settings:
    """Small limits, so that small requests exceed them; load changes no answer."""
    return Settings(
        models=folder, max_images=MAX_IMAGES, max_body_bytes=MAX_BODY_BYTES, policy="fixed"
    )


@pytest.fixture(scope="session")
def client(settings: Settings) -> Iterator[TestClient]:
    """A client of a running app, shared by tests that leave no trace in it."""
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture(scope="session")
def text_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A model that takes images beside one that takes text."""
    folder = tmp_path_factory.mktemp("text-models")
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "tiny-text")
    return Settings(models=folder, max_texts=6, policy="fixed")


@pytest.fixture(scope="session")
def all_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Models that give vectors, classes and scores of texts, beside one that takes images."""
    folder = tmp_path_factory.mktemp("all-models")
    write_checkpoint(folder / "tiny")
    write_text_checkpoint(folder / "tiny-text")
    write_classifier(folder / CLASSIFIER)
    write_cross_encoder(folder / CROSS_ENCODER)
    return Settings(models=folder, max_texts=6, policy="fixed", default_models="tiny-text")


@pytest.fixture(scope="session")
def text_model(text_settings: Settings) -> Exits:
    """The text model, for comparison: not the object the app has."""
    found = catalog.load(text_settings.models_folder)["tiny-text"].model
    assert isinstance(found, Exits)
    return found


@pytest.fixture(scope="session")
def text_client(text_settings: Settings) -> Iterator[TestClient]:
    """A client of a running app with both models."""
    with TestClient(create_app(text_settings)) as client:
        yield client


@pytest.fixture(scope="session")
def text_url(text_settings: Settings) -> Iterator[str]:
    """Address of a server with both models that listens on a free port."""
    server = uvicorn.Server(uvicorn.Config(create_app(text_settings), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
    (socket,) = server.servers[0].sockets
    yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def written(caplog: pytest.LogCaptureFixture) -> Iterator[Written]:
    """What is logged from now on."""
    written = Written()
    handlers = [logs.handler_of(form, stream) for form, stream in written.streams.items()]
    with caplog.at_level(logging.INFO):
        for handler in handlers:
            logging.getLogger().addHandler(handler)
        yield written
        for handler in handlers:
            logging.getLogger().removeHandler(handler)


Refuse = Callable[[int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Let the engines of this process find themselves full a number of times from now on."""
    admit, left = Engine.reserve, 0

    def reserve(engine: Engine, *args: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise OverloadedError("the queue is full", 0.02)
        return admit(engine, *args)

    def refuse_next(times: int) -> None:
        nonlocal left
        left = times

    monkeypatch.setattr(Engine, "reserve", reserve)
    return refuse_next


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    """A decoder with two threads."""
    decoder = Decoder(2, time.perf_counter, MAX_PIXELS)
    yield decoder
    decoder.close()
