"""The page of results, and what its figures depend on."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

import torch

LENGTH = 16  # tokens of a text


def page(
    device: Mapping[str, str],
    tests: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    is_dry: bool,
) -> str:
    """Return the page of results.

    Args:
        device: What the figures depend on, by name.
        tests: What came of the tests marked gpu.
        columns: Of the table.
        rows: Of the table.
        is_dry: Whether no GPU was there.
    """
    dry = ["**A dry run without a GPU: these times say nothing about one.**", ""]
    table = [columns, ["---"] * len(columns), *rows]
    lines = [
        "# Measured on a GPU",
        "",
        *(dry if is_dry else []),
        f"`bench/gpu.sh`: {', '.join(f'{name} {value}' for name, value in device.items())}.",
        f"Tests: {tests}.",
        "",
        "Milliseconds of a run, the median; in brackets how many times faster than eager torch.",
        f"The whole model answers all tasks; texts have {LENGTH} tokens.",
        "",
        *("| " + " | ".join(map(str, row)) + " |" for row in table),
    ]
    return "\n".join(lines) + "\n"


def name_of(device: str) -> str:
    """Return what a device is called."""
    return "the processor" if device == "cpu" else torch.cuda.get_device_name(device)


def device_facts(device: str) -> dict[str, str]:
    """Return what the figures depend on."""
    found = {"device": name_of(device), "torch": torch.__version__}
    if device != "cpu":
        found |= {"CUDA": str(torch.version.cuda), "driver": _driver()}
    try:
        import onnxruntime
    except ImportError:
        found["ONNX Runtime"] = "not installed"
    else:
        found["ONNX Runtime"] = onnxruntime.__version__
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            found["ONNX Runtime"] += " without CUDA"
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "not told"
    return told.stdout.strip().splitlines()[0]
