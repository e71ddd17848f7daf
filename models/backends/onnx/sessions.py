"""ONNX Runtime sessions: threads and memory of the process shared, weights lent instead of copied.

How far that goes with onnxruntime 1.32, from Python:
- ``set_global_thread_pool_sizes`` makes one pool of threads for the process. After it, the runtime
  refuses to make a session with threads of its own, and to change the sizes.
- One registered arena serves all sessions; with one each, twenty sessions of one MiniLM layer held
  22 MB each after a batch of 32 rows of 40 tokens, and now hold 1 MB.
- Weights that lie in memory as the graph reads them (a parameter, its leading rows) are lent as the
  contents of external files and used where they are. The older ways copy:
  ``add_external_initializers`` everything, ``add_initializer`` most. Column slices are copied.
- Packing rearranges the weights of products for the processor: a copy for each session, which only
  the C API can share. Convolutions are rearranged also without it. Products of int8 weights take
  2/3 of the time packed, for one short text; the copy is a quarter of what float ones would take.
- On CUDA every session copies its weights to the device.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import onnxruntime as ort
import torch
from onnx import GraphProto, TensorProto, helper
from torch import Tensor

from models.backends.onnx.export import OPSET, OUTPUT, Exported, input_name
from models.backends.onnx.layouts import LayoutTensors
from models.backends.timing import Compared
from models.nn.ragged import Ragged, Value, layouts_of

_IR_VERSION = 10
_SESSION_BYTES = 650_000  # of a session without weights, measured
_REARRANGED = ("Conv",)  # operators whose weights each session keeps in an order of its own
_PACKED = ("Gemm", "MatMul")  # the same, unless it is told not to

_pool_size: int | None = None
_pool_lock = threading.Lock()


def share_pools(threads: int) -> None:
    """Make the one thread pool and the one memory arena of all sessions in this process.

    Args:
        threads: That work on one operator, the caller's included.

    Raises:
        ValueError: If there is a pool of another size already; it cannot be replaced.
    """
    global _pool_size
    with _pool_lock:
        if _pool_size is None:
            ort.set_global_thread_pool_sizes(threads, 1)
            memory = ort.OrtMemoryInfo(
                "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
            )
            ort.create_and_register_allocator(memory, None)
            _pool_size = threads
    if _pool_size != threads:
        raise ValueError(f"threads={threads}: this process has a pool of {_pool_size} already")


def options_beside() -> ort.SessionOptions:
    """Return options of a session for a moment, which is in no cache; it uses a pool that is there.

    The runtime refuses a session with threads of its own in a process that has a pool.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors
    with _pool_lock:
        options.use_per_session_threads = _pool_size is None
    return options


class Session:
    """A graph ready to run.

    Attributes:
        num_bytes: What it holds and shares with no other session; an estimate from its weights.
    """

    def __init__(self, graph: Exported, device: torch.device, pack: bool) -> None:
        """Have the runtime prepare a graph.

        Args:
            graph: What to run.
            device: ``cpu`` or a CUDA device with its number.
            pack: Whether weights of products are rearranged for the processor; those of int8 are.

        Raises:
            Exception: The runtime's, if it cannot run the graph.
        """
        self._graph = graph
        self._device = device
        self._lent: dict[str, Any] = {}  # held for as long as the runtime reads it
        proto = GraphProto()
        proto.CopyFrom(graph.proto)
        for name, weight in graph.weights.items():
            self._add_weight(proto, name, weight)
        model = helper.make_model(
            proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
        )
        is_int8 = {name for name, weight in graph.weights.items() if weight.dtype == torch.int8}
        pack = pack or bool(is_int8)
        options = _options(pack)
        buffers = list(self._lent.values())
        options.add_external_initializers_from_files_in_memory(
            list(self._lent), buffers, [buffer.nbytes for buffer in buffers]
        )
        self._session = ort.InferenceSession(
            model.SerializeToString(), options, providers=_providers(device)
        )
        self._session.disable_fallback()  # an error is an error, not another provider's turn
        own = _REARRANGED + (_PACKED if pack else ())
        private = {name for node in proto.node if node.op_type in own for name in node.input}
        private |= graph.weights.keys() - self._lent.keys() | is_int8
        self.num_bytes = _SESSION_BYTES + sum(
            weight.nbytes for name, weight in graph.weights.items() if name in private
        )

    def _add_weight(self, proto: GraphProto, name: str, weight: Tensor) -> None:
        values = weight.cpu().contiguous().numpy()
        data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        initializer = proto.initializer.add(name=name, dims=weight.shape, data_type=data_type)
        if self._device.type != "cpu" or values.ctypes.data != weight.data_ptr():
            # The session's own; freed once it is packed or on the device.
            initializer.raw_data = values.tobytes()
            return
        initializer.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", 0), ("length", values.nbytes)):
            initializer.external_data.add(key=key, value=str(value))
        self._lent[name] = values.reshape(-1).view("uint8")

    def run(self, values: Sequence[Value], layouts: LayoutTensors) -> Value:
        """Run the graph on a batch; on the CPU, contiguous values are not copied.

        Args:
            values: The arguments, on the session's device.
            layouts: Where tensors of their layouts are kept.
        """
        own = layouts_of(values)
        named = {
            input_name(position): value.values if isinstance(value, Ragged) else value
            for position, value in enumerate(values)
        }
        for one in self._graph.layout:
            named[one.full_name] = layouts.get(own, one)
        inputs = {
            declared.name: named[declared.name].contiguous() for declared in self._graph.proto.input
        }
        output = self._on_cuda(inputs) if self._device.type == "cuda" else self._on_cpu(inputs)
        packed = self._graph.packed
        return output if packed < 0 else Ragged(output, own[packed])

    def _on_cpu(self, inputs: dict[str, Tensor]) -> Tensor:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        (output,) = self._session.run([OUTPUT], arrays)
        return torch.from_numpy(output)

    def _on_cuda(self, inputs: dict[str, Tensor]) -> Tensor:  # pragma: no cover - needs a GPU
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.from_dlpack(tensor))
        binding.bind_output(OUTPUT, "cuda", self._device.index)
        # The runtime has a stream of its own, which must not read before torch has written.
        torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        return torch.utils.dlpack.from_dlpack(binding.get_outputs()[0])


def _options(pack: bool) -> Any:
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.enable_mem_pattern = False  # plans memory for each shape seen; shapes hardly recur
    options.log_severity_level = 3  # errors
    for name, value in (
        ("session.use_env_allocators", "1"),
        ("session.use_external_initializer_file_buffers_directly", "1"),
        ("session.disable_prepacking", "0" if pack else "1"),
    ):
        options.add_session_config_entry(name, value)
    return options


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cuda":  # pragma: no cover - needs a GPU
        return [("CUDAExecutionProvider", {"device_id": device.index}), "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]


class Held(NamedTuple):
    """A session that is kept.

    Attributes:
        session: What runs.
        sizes: For each of `models.backends.timing.SIZES`, whether it is used for such batches.
    """

    session: Session
    sizes: tuple[Compared, ...]


class SessionCache:
    """Sessions by what they compute, in order of use; not for several threads at once.

    Attributes:
        max_bytes: What they may hold together.
        max_others: How many there may be that are not expected.
        expected: Keys of those that may well be used again; others go first.
        num_bytes: What they do.
        evictions: Sessions given up so far.
    """

    def __init__(self, max_bytes: int, max_others: int) -> None:
        self.max_bytes = max_bytes
        self.max_others = max_others
        self.expected: set[Hashable] = set()
        self.num_bytes = 0
        self.evictions = 0
        self._held: OrderedDict[Hashable, Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._held

    def get(self, key: Hashable) -> Held | None:
        """Return a session, which is now the last to be given up."""
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
        return held

    def put(self, key: Hashable, held: Held) -> None:
        """Add a session, and give up those unused for longest until the rest fits."""
        self._held[key] = held
        self._count()
        others = [key for key in self._held if key not in self.expected]
        while self.num_bytes > self.max_bytes or len(others) > self.max_others:
            del self._held[others.pop(0) if others else next(iter(self._held))]
            self.evictions += 1
            self._count()

    def drop(self, is_unwanted: Callable[[Hashable], bool]) -> None:
        """Let go of sessions by their keys."""
        for key in filter(is_unwanted, list(self._held)):
            del self._held[key]
        self.expected = {key for key in self.expected if not is_unwanted(key)}
        self._count()

    def _count(self) -> None:
        self.num_bytes = sum(held.session.num_bytes for held in self._held.values())
