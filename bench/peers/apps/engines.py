# mypy: ignore-errors
"""What the servers of this folder run: `load` returns what turns texts into unit vectors.

`PEER_ENGINE` names an engine, `PEER_MODEL` the folder of its model, `PEER_THREADS` the threads of
one run. Nothing is imported but the engine that is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

_LONGEST = 256  # tokens, as sentence-transformers cuts texts for this model


def load():
    """Return a function of a list of texts that returns float32 [texts, dimensions]."""
    engine = _ENGINES[os.environ["PEER_ENGINE"]]
    return engine(os.environ["PEER_MODEL"], int(os.environ["PEER_THREADS"]))


def _torch(folder, num_threads):
    """Return sentence-transformers on torch."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(num_threads)
    return _encode(SentenceTransformer(folder, device="cpu"))


def _st_onnx(folder, num_threads):
    """Return sentence-transformers with its back end of ONNX Runtime."""
    import onnxruntime
    from sentence_transformers import SentenceTransformer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    wanted = {
        "provider": "CPUExecutionProvider",
        "session_options": options,
        "file_name": "model.onnx",
    }
    return _encode(SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs=wanted))


def _st_openvino(folder, num_threads):
    """Return sentence-transformers with its back end of OpenVINO."""
    from sentence_transformers import SentenceTransformer

    wanted = {"ov_config": _of_openvino(num_threads), "file_name": "openvino_model.xml"}
    return _encode(
        SentenceTransformer(folder, device="cpu", backend="openvino", model_kwargs=wanted)
    )


def _encode(model):
    def run(texts):
        return model.encode(texts, batch_size=32, show_progress_bar=False)

    return run


def _onnx(folder, num_threads):
    """Return a plain session of ONNX Runtime, with the tokenizers library in front."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(
        str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_inputs()]
    return _pooled(folder, names, lambda inputs: session.run(None, inputs)[0])


def _openvino(folder, num_threads):
    """Return a compiled model of OpenVINO, with the tokenizers library in front."""
    import openvino

    model = openvino.Core().compile_model(
        str(Path(folder) / "openvino_model.xml"), "CPU", _of_openvino(num_threads)
    )
    names = [one.get_any_name() for one in model.inputs]
    request = model.create_infer_request()
    return _pooled(folder, names, lambda inputs: request.infer(inputs, share_inputs=True)[0])


def _of_openvino(num_threads):
    # On processors with bfloat16 it would compute in that what is not quantised.
    return {"INFERENCE_NUM_THREADS": num_threads, "INFERENCE_PRECISION_HINT": "f32"}


def _pooled(folder, names, forward):
    """Return a function that tokenises, runs, and takes the mean of the tokens' vectors."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.enable_truncation(_LONGEST)
    tokenizer.enable_padding()

    def run(texts):
        rows = tokenizer.encode_batch(texts)
        tokens = {
            "input_ids": np.array([row.ids for row in rows]),
            "attention_mask": np.array([row.attention_mask for row in rows]),
            "token_type_ids": np.array([row.type_ids for row in rows]),
        }
        hidden = forward({name: tokens[name] for name in names})
        mask = tokens["attention_mask"].astype(np.float32)
        vectors = np.einsum("rtd,rt->rd", hidden, mask)  # a multiple of the mean
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return run


def _fastembed(folder, num_threads):
    """Return fastembed, with the model described as it wants models of one's own described."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        "peer",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="peer"),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding("peer", specific_model_path=folder, threads=num_threads)
    return lambda texts: np.array(list(model.embed(texts, batch_size=32)), np.float32)


def _embed_anything(folder, num_threads):
    """Return embed-anything on ONNX Runtime, which takes its threads from the machine.

    It reads models of the hub alone, so the folder is laid out as the hub's cache is.
    """
    from embed_anything import EmbeddingModel, WhichModel, embed_query

    model = EmbeddingModel.from_pretrained_onnx(
        WhichModel.Bert, hf_model_id="peer/model", path_in_repo="model.onnx"
    )
    return lambda texts: np.array([found.embedding for found in embed_query(texts, embedder=model)])


_ENGINES = {
    "embed-anything": _embed_anything,
    "torch": _torch,
    "st-onnx": _st_onnx,
    "st-openvino": _st_openvino,
    "onnx": _onnx,
    "openvino": _openvino,
    "fastembed": _fastembed,
}
