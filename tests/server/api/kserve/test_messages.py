from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
messages = pytest.importorskip("server.api.kserve.messages")


def test_the_committed_descriptor_is_the_proto_compiled(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    proto = messages.COMPILED.with_suffix(".proto")
    compiled = tmp_path / "anew.binpb"
    compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}"]
    subprocess.run([*compiler, f"--descriptor_set_out={compiled}", str(proto)], check=True)
    anew, committed = (
        descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())
        for path in (compiled, messages.COMPILED)
    )
    assert anew == committed


def fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    """Return number, type and oneof of each field, by path; nested messages in full."""
    found: dict[str, tuple[Any, ...]] = {}
    for field in descriptor.fields:
        oneof = field.containing_oneof.name if field.containing_oneof else None
        found[field.name] = (field.number, field.type, field.is_repeated, oneof)
        inner = field.message_type
        if inner is not None and inner.full_name != descriptor.full_name:
            found |= {f"{field.name}.{name}": value for name, value in fields(inner).items()}
    return found


def test_every_message_is_wire_compatible_with_tritons() -> None:
    # Triton's client registers the same names in the default pool, in this very process.
    theirs = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    service = theirs.services_by_name[messages.SERVICE.rpartition(".")[2]]
    for name, (takes, gives) in messages.calls().items():
        method = service.methods_by_name[name]
        assert fields(takes.DESCRIPTOR) == fields(method.input_type)
        assert fields(gives.DESCRIPTOR) == fields(method.output_type)
