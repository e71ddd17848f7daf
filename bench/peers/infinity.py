"""How infinity-emb 0.0.78 is started, with those of its engines that suit a CPU.

It asks for numpy 1 and sentence-transformers 3, which run under the torch that all peers share. Its
own warm-up on long texts is left out: it takes long, and every server is warmed up on the texts.
"""

from __future__ import annotations

from pathlib import Path

from bench.peers.environments import python_of
from bench.peers.exports import Weights
from bench.peers.process import Launch

_PACKAGE = "infinity-emb[server,torch]==0.0.78"
_COMMON = (
    "--url-prefix /v1 --host 127.0.0.1 --port {port} --served-model-name minilm --device cpu "
    "--dtype float32 --batch-size 32 --no-compile --no-vector-disk-cache --no-model-warmup "
    "--log-level warning"
)


def torch_engine(weights: Weights) -> Launch:
    """Return its engine torch with BetterTransformer, which leaves out padding.

    BetterTransformer is optimum's: optimum 2 dropped it, and it refuses transformers 4.49 and
    later. Without it a text takes longer. torch.compile, the default, cannot be combined with it
    under this torch; alone it took minutes to start and brought less.
    """
    # optimum's extra onnxruntime stays out: it brings datasets, whose pyarrow wants numpy 2.
    requirements = (_PACKAGE, "optimum==1.27.0", "transformers==4.48.3")
    python = python_of(weights.envs / "infinity", requirements)
    return _launch(python, "--engine torch --bettertransformer", weights.source)


def onnx_engine(weights: Weights, form: str) -> Launch:
    """Return its engine optimum: ONNX Runtime, on a graph that is exported beforehand.

    infinity's own step that fuses the graph asks for an option that optimum 2 dropped; ONNX Runtime
    fuses it as it loads it. ONNX Runtime takes a thread per core, whatever number is asked for.

    Args:
        weights: The model.
        form: ``onnx`` or ``onnx-int8``.
    """
    requirements = (_PACKAGE, "optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6")
    python = python_of(weights.envs / "infinity-onnx", requirements)
    # "." since it hands the file's whole path to optimum, which knows paths inside the folder only.
    options = "--engine optimum --no-bettertransformer --onnx-disable-optimize"
    return _launch(python, f"{options} --pooling-method mean", Path(), weights.folder(form))


def _launch(python: Path, options: str, model: Path, folder: Path | None = None) -> Launch:
    program = str(python.parent / "infinity_emb")
    command = (program, "v2", *_COMMON.split(), *options.split(), "--model-id", str(model))
    return Launch(command, {"INFINITY_ANONYMOUS_USAGE_STATS": "0"}, folder)
