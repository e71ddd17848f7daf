# mypy: ignore-errors
"""Write a sentence-transformers folder for OpenVINO: `export_openvino.py SOURCE OUT TEXTS`.

`OUT/openvino` is in float32. `OUT/openvino-int8` is quantised after training by NNCF, as
`export_static_quantized_openvino_model` does it; that function reads its texts from a hub, here
they are those of a JSON file.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nncf
import openvino
from sentence_transformers import SentenceTransformer

source, out, texts = map(Path, sys.argv[1:])
NAME = "openvino_model.xml"
model = SentenceTransformer(str(source), device="cpu", backend="openvino")
whole, reduced = out / "openvino", out / "openvino-int8"
model.save_pretrained(str(whole))
for file in (whole / "openvino").iterdir():
    file.rename(whole / file.name)
(whole / "openvino").rmdir()
graph = openvino.Core().read_model(whole / NAME)
names = [one.get_any_name() for one in graph.inputs]


def inputs(text):
    """Return the inputs of the graph."""
    tokens = model.tokenizer(
        [text], truncation=True, max_length=model.max_seq_length, return_tensors="np"
    )
    return {name: tokens[name] for name in names}


sample = json.loads(texts.read_text())
quantised = nncf.quantize(
    graph,
    nncf.Dataset(sample, inputs),
    model_type=nncf.ModelType.TRANSFORMER,
    preset=nncf.QuantizationPreset.MIXED,
    subset_size=len(sample),
)
shutil.copytree(whole, reduced, ignore=shutil.ignore_patterns("openvino_model.*"))
openvino.save_model(quantised, reduced / NAME)
