"""The messages of the Open Inference Protocol over gRPC.

`server/api/open_inference.binpb` is the compiled `.proto` beside it, as a descriptor set: unlike
Python code that the compiler makes, it runs with any release of protobuf. Its messages live in a
pool of their own, since clients of the protocol register the same names in the default one. It is
committed, since building it needs a compiler that building Rheostat would otherwise not; a test
compiles it anew and compares.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
COMPILED = Path(__file__).parent / "open_inference.binpb"

_files = descriptor_pb2.FileDescriptorSet.FromString(COMPILED.read_bytes())
_pool = descriptor_pool.DescriptorPool()
for _file in _files.file:
    _pool.Add(_file)


@cache
def message(name: str) -> Any:
    """Return the class of a message of the protocol; its fields are known at run time only."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"inference.{name}"))


def calls() -> dict[str, tuple[Any, Any]]:
    """Return the classes of request and response by the name of each call."""
    methods = _pool.FindServiceByName(SERVICE).methods
    return {
        method.name: (message(method.input_type.name), message(method.output_type.name))
        for method in methods
    }
