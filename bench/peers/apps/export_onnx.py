# mypy: ignore-errors
"""Write a sentence-transformers folder for ONNX Runtime: `export_onnx.py SOURCE OUT`.

`OUT/onnx` has the graph in float32, `OUT/onnx-int8` the one that sentence-transformers makes with
`export_dynamic_quantized_onnx_model` for processors with VNNI, here with a scale per channel, which
keeps more of the score. Graphs are not fused beforehand: the runtime does it as it loads them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from optimum.onnxruntime.configuration import AutoQuantizationConfig
from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

source, out = map(Path, sys.argv[1:])
wanted = {"provider": "CPUExecutionProvider"}
model = SentenceTransformer(str(source), device="cpu", backend="onnx", model_kwargs=wanted)
whole, reduced = out / "onnx", out / "onnx-int8"
model.save_pretrained(str(whole))
config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
export_dynamic_quantized_onnx_model(model, config, str(whole), file_suffix="int8")
shutil.copytree(whole, reduced, ignore=shutil.ignore_patterns("onnx"))
# The place and the name that all of the servers look for.
(whole / "onnx" / "model_int8.onnx").rename(reduced / "model.onnx")
(whole / "onnx" / "model.onnx").rename(whole / "model.onnx")
(whole / "onnx").rmdir()
