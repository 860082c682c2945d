"""A pretended GPU: tensors that hold CPU data and say that they are on cuda:0.

``with PretendedGPU() as gpu:`` makes torch believe in one device. Inside, an operation that mixes
devices fails as on a real one, and what costs time there is counted: kernels, and the places at
which the CPU waits for the device. Autocast casts what it would cast; attention is one kernel.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils as foreach
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parents[2]
TESTS = str(ROOT / "tests")
# Allocations and changes of shape: nothing is launched. (True views are known by their schema.)
NO_KERNEL = frozenset(
    f"aten::{name}"
    for name in (
        *("_unsafe_view", "_reshape_alias", "lift_fresh", "detach", "alias", "set_"),
        *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_"),
    )
)
# The size of the answer is on the device: the CPU waits for it.
WAITS = frozenset(
    f"aten::{name}"
    for name in (
        *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"),
        *("repeat_interleave", "bincount", "_local_scalar_dense"),
    )
)
INDEXING = frozenset(
    f"aten::{name}"
    for name in (
        *("index", "index_put", "index_put_", "_index_put_impl_"),
        *("_unsafe_index", "_unsafe_index_put"),
    )
)
# What autocast computes in half precision, and what in float32 (those that are used here).
MATRIX = frozenset(
    (
        *(F.linear, F.conv2d, F.scaled_dot_product_attention, torch.einsum, torch.bmm, torch.mm),
        *(torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm),
    )
)
FULL = frozenset(
    (
        *(F.softmax, F.log_softmax, F.layer_norm, F.cross_entropy, F.cosine_similarity, F.mse_loss),
        *(Tensor.softmax, Tensor.log_softmax, Tensor.exp, Tensor.log, Tensor.sum, Tensor.norm),
        *(torch.softmax, torch.exp, torch.log, torch.sum, torch.norm),
    )
)


class OnGPU(torch.Tensor):
    """A tensor on the pretended device; ``inner`` holds its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGPU":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="meta",  # torch has no device to guard there
            requires_grad=False,
        )
        made.inner = inner
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_meta = is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **options: Any) -> str:
        return f"OnGPU({self.inner!r})"

    def __deepcopy__(self, memo: dict) -> Tensor:
        copied = OnGPU(self.inner.clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied._is_param = True
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.detach().clone().__reduce_ex__(protocol)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        raise RuntimeError(f"{func} on a pretended GPU outside of ``with PretendedGPU()``.")


class Mixed(RuntimeError):
    """An operation mixes devices."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}, at {caller()}")


def caller() -> str:
    """File and line of this repository, outside of the tests, that torch was called from."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(ROOT)) and not name.startswith(TESTS):
            return f"{Path(name).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "a test"


class PretendedGPU(TorchDispatchMode):
    """Counts what happens on the pretended device while it is there.

    Attributes:
        kernels: name of the operation -> how often it was launched.
        waits: place in the code -> how often the CPU waited for the device there: for a value, for
            the size of an answer, for a copy to the CPU, or for a blocking copy from it.
        uploads: place -> copies from the CPU that block nothing.
        autocasts: the dtypes that matrix products were cast to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forget()
        self.stack = ExitStack()

    def forget(self) -> None:
        """Start counting again."""
        self.kernels: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.autocasts: Counter[torch.dtype] = Counter()

    def __enter__(self) -> "PretendedGPU":
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        _believe(patch)
        super().__enter__()
        self.stack.enter_context(_Calls(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self.stack.pop_all().close()
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name
        flat = tree_flatten((args, kwargs))[0]
        given = [value for value in flat if isinstance(value, OnGPU)]
        if not given and not _is_gpu(kwargs.get("device")):
            return func(*args, **kwargs)
        if name == "aten::_to_copy":
            return self._copied(func, args[0], kwargs)
        if name == "aten::copy_":
            return self._written(func, args, kwargs)
        self._launch(func, name)
        if given:
            self._check_devices(name, args, flat)
        if name in WAITS and not (name == "aten::bincount" and kwargs.get("minlength")):
            self.waits[f"{name.removeprefix('aten::')} {caller()}"] += 1
        if _is_gpu(kwargs.get("device")):
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        found = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        known = {id(tensor.inner): tensor for tensor in given}
        if name == "aten::_local_scalar_dense":
            return found
        return tree_map(lambda value: known.get(id(value), _on_gpu(value)), found)

    def _launch(self, func: Any, name: str) -> None:
        if not func.is_view and name not in NO_KERNEL:
            self.kernels[name] += 1

    def _copied(self, func: Any, source: Tensor, options: dict) -> Tensor:
        here = isinstance(source, OnGPU)
        device = options.pop("device", None)
        there = here if device is None else _is_gpu(device)
        blocks = not options.pop("non_blocking", False)
        self._transfer(here, there, blocks=blocks or not there)
        self.kernels["aten::_to_copy"] += 1
        found = func(_values(source), **options)
        return OnGPU(found) if there else found

    def _written(self, func: Any, args: tuple, options: dict) -> Tensor:
        there, here = (isinstance(tensor, OnGPU) for tensor in args[:2])
        blocks = not (args[2] if len(args) > 2 else options.get("non_blocking", False))
        if args[1].dim() or here:
            self._transfer(here, there, blocks=blocks or not there)
        self.kernels["aten::copy_"] += 1
        func(*map(_values, args[:2]))
        return args[0]

    def _transfer(self, here: bool, there: bool, *, blocks: bool) -> None:
        if here != there:
            kind = "from the CPU" if there else "to the CPU"
            (self.waits if blocks else self.uploads)[f"{kind} {caller()}"] += 1

    def _check_devices(self, name: str, args: tuple, flat: Iterable[Any]) -> None:
        allowed: set[int] = set()
        if name in INDEXING:
            if not isinstance(args[0], OnGPU):
                raise Mixed(f"{name}: a tensor on the CPU is indexed by one on the device")
            for index in args[1]:
                if isinstance(index, OnGPU) and index.dtype in (torch.bool, torch.uint8):
                    self.waits[f"bool index {caller()}"] += 1
                elif isinstance(index, Tensor) and not isinstance(index, OnGPU):
                    allowed.add(id(index))
                    self.waits[f"index from the CPU {caller()}"] += 1
        for value in flat:
            is_other = isinstance(value, Tensor) and not isinstance(value, OnGPU)
            if is_other and value.dim() > 0 and id(value) not in allowed:
                raise Mixed(f"{name}: a tensor {tuple(value.shape)} on the CPU, others on cuda:0")
        first = args[0] if args else None
        is_written = name.endswith("_") and isinstance(first, Tensor)
        if is_written and not isinstance(first, OnGPU):
            raise Mixed(f"{name}: a value on the device is written into a tensor on the CPU")


class _Calls(TorchFunctionMode):
    """What cannot be seen below autograd: moves, new tensors, autocast, attention."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if name == "pin_memory":
            return first
        if name in ("to", "cuda") and isinstance(first, Tensor):
            return self._moved(func, name, first, args[1:], kwargs)
        if isinstance(first, OnGPU):
            if name == "cpu":
                return first.to("cpu")
            if name in ("numpy", "__array__"):
                raise Mixed("a tensor on the device becomes a NumPy array")
            if name == "tolist":
                self.gpu.waits[f"tolist {caller()}"] += 1
                return first.inner.tolist()
            if name in ("as_tensor", "asarray") and not kwargs:
                return first
            if name == "new_tensor":
                self.gpu.waits[f"from the CPU {caller()}"] += 1
                return OnGPU(first.inner.new_tensor(*args[1:], **kwargs))
            if name in ("__getitem__", "__setitem__"):
                args = (first, _listed(args[1]), *args[2:])
            args, kwargs = self._cast(func, (args, kwargs))
            if func is F.scaled_dot_product_attention:
                return self._attention(*args, **kwargs)
        if _is_gpu(kwargs.get("device")):
            return self._made(func, name, args, kwargs)
        return func(*args, **kwargs)

    def _moved(self, func: Any, name: str, tensor: Tensor, args: tuple, kwargs: dict) -> Tensor:
        device, dtype, blocks = _where(name, tensor, args, kwargs)
        here = isinstance(tensor, OnGPU)
        there = here if device is None else _is_gpu(device)
        if here == there:
            moved = tensor if dtype in (None, tensor.dtype) else tensor.type(dtype)
            return tensor.clone() if kwargs.get("copy") and moved is tensor else moved
        self.gpu._transfer(here, there, blocks=blocks or not there)
        values = _values(tensor.detach())
        values = values.clone() if dtype in (None, tensor.dtype) else values.to(dtype)
        moved = OnGPU(values) if there else values
        if tensor.requires_grad and torch.is_grad_enabled() and not tensor.is_leaf:
            raise Mixed("a tensor with a gradient moves between devices")
        return moved.requires_grad_(tensor.requires_grad) if there else moved

    def _made(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator) and generator.device.type == "cpu":
            raise Mixed(f"{name} on the device with a generator of the CPU")
        if name in ("tensor", "as_tensor", "asarray"):
            self.gpu.waits[f"from the CPU {caller()}"] += 1
        self.gpu.kernels[name] += not name.startswith("empty")
        values = func(*tree_map(_values, args), **{**tree_map(_values, kwargs), "device": "cpu"})
        return tree_map(_on_gpu, values)

    def _cast(self, func: Any, arguments: Any) -> Any:
        """The arguments as autocast gives them to a function."""
        if not torch.is_autocast_enabled("cuda") or func not in MATRIX | FULL:
            return arguments
        dtype = torch.get_autocast_dtype("cuda") if func in MATRIX else torch.float32
        self.gpu.autocasts[dtype] += func in MATRIX
        is_cast = lambda value: isinstance(value, Tensor) and value.is_floating_point()  # noqa: E731
        return tree_map(lambda value: value.type(dtype) if is_cast(value) else value, arguments)

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        *,
        is_causal: bool = False,
    ) -> Tensor:
        for other in (k, v, attn_mask):
            if isinstance(other, Tensor) and not isinstance(other, OnGPU):
                raise Mixed("attention: a tensor on the CPU, others on cuda:0")
        return _Attention.apply(self.gpu, q, k, v, attn_mask, is_causal)


class _Attention(torch.autograd.Function):
    """The fused kernel: one forwards, three backwards."""

    @staticmethod
    def forward(ctx: Any, gpu: PretendedGPU, q: Any, k: Any, v: Any, mask: Any, causal: bool):
        gpu.kernels["attention"] += 1
        ctx.gpu, ctx.save = gpu, ([tensor.inner.detach() for tensor in (q, k, v)], mask, causal)
        return OnGPU(_attend(*ctx.save))

    @staticmethod
    def backward(ctx: Any, grad: Any):  # type: ignore[override]
        ctx.gpu.kernels["attention"] += 3
        values, mask, causal = ctx.save
        with torch.enable_grad():
            leaves = [value.clone().requires_grad_() for value in values]
            found = torch.autograd.grad(_attend(leaves, mask, causal), leaves, _values(grad))
        return (None, *map(OnGPU, found), None, None)


def _attend(values: list[Tensor], mask: Any, causal: bool) -> Tensor:
    return F.scaled_dot_product_attention(*values, attn_mask=_values(mask), is_causal=causal)


def _where(
    name: str, tensor: Tensor, args: tuple, kwargs: dict
) -> tuple[torch.device | None, torch.dtype | None, bool]:
    """Device, dtype and whether the call blocks, of ``tensor.to(...)`` or ``tensor.cuda(...)``."""
    if name == "cuda":
        return GPU, None, not kwargs.get("non_blocking", False)
    if args and isinstance(args[0], Tensor):
        return args[0].device, args[0].dtype, True
    options = {key: value for key, value in kwargs.items() if key != "copy"}
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **options)
    return device, dtype, not non_blocking


def _listed(index: Any) -> Any:
    """An index whose lists are tensors: torch would make them on the device, without values."""
    if isinstance(index, tuple):
        return tuple(_listed(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _values(value: Any) -> Any:
    return value.inner if isinstance(value, OnGPU) else value


def _on_gpu(value: Any) -> Any:
    return OnGPU(value) if isinstance(value, Tensor) and not isinstance(value, OnGPU) else value


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _believe(patch: pytest.MonkeyPatch) -> None:
    """Let torch say that it has one GPU, and take its tensors for plain ones."""
    answers: dict[str, Callable] = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "pretended GPU",
        "is_current_stream_capturing": lambda: False,
        "max_memory_allocated": lambda *_: 0,
        "get_rng_state_all": lambda: [],
        **dict.fromkeys(("manual_seed", "manual_seed_all", "_lazy_init"), lambda *_: None),
    }
    for name, answer in answers.items():
        patch.setattr(torch.cuda, name, answer)
    for check in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
        patch.setattr(torch.optim.Optimizer, check, lambda self: None, raising=False)
    patch.setattr(foreach, "_foreach_supported_types", [*foreach._foreach_supported_types, OnGPU])
    patch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
