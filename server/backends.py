"""The back end that the settings name."""

from __future__ import annotations

import logging

import torch

from models.backends.cuda.graphs import GraphBackend
from models.backends.torch import TorchBackend
from models.run.backend import Backend
from server.settings import Settings, SettingsError

log = logging.getLogger(__name__)


def make_backend(settings: Settings) -> Backend:
    """Return the back end; the process then computes with the settings' number of threads.

    Raises:
        SettingsError: If the device or the runtime is not there.
    """
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    kind, _, index = settings.device.partition(":")
    if kind == "cuda":
        found = torch.cuda.device_count()
        if int(index or 0) >= found:
            raise SettingsError(f"device={settings.device}: torch sees {found} CUDA devices here")
    on_torch = TorchBackend() if kind == "cpu" else GraphBackend(settings.device)
    # On a GPU torch's graphs are what "auto" means: sessions would hold the weights again.
    if settings.backend == "torch" or (settings.backend == "auto" and kind != "cpu"):
        return on_torch
    try:
        from models.backends.onnx.backend import OnnxBackend
    except ModuleNotFoundError as error:
        if settings.backend == "auto":
            log.info("%s is missing, so torch runs everything", error.name)
            return on_torch
        raise SettingsError(
            f"backend=onnx: {error.name} is missing: pip install 'rheostat[cpu]', or [gpu]"
        ) from None
    try:
        return OnnxBackend(
            settings.device,
            max_bytes=settings.max_session_bytes,
            threads=settings.num_threads or torch.get_num_threads(),
            graphs=settings.profiles_folder / "graphs",
        )
    except ValueError as error:
        raise SettingsError(f"backend=onnx: {error}") from None
