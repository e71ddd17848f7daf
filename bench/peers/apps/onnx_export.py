# mypy: ignore-errors
"""Write a sentence-transformers folder as an optimised ONNX graph: `onnx_export.py SOURCE OUT`.

infinity would optimise the graph itself, but asks with an option that optimum 2 no longer has, and
older releases of optimum do not export under this torch. The settings here are those it asks for.
"""

from __future__ import annotations

import sys

from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTOptimizer
from optimum.onnxruntime.configuration import OptimizationConfig

source, out = sys.argv[1:]
exported = ORTModelForFeatureExtraction.from_pretrained(source, export=True)
ORTOptimizer.from_pretrained(exported).optimize(
    save_dir=out, optimization_config=OptimizationConfig(optimization_level=99)
)
