"""A device that is not the CPU, where no GPU is: it shows what a GPU would refuse, and how often it is waited for.

Its tensors are held by the CPU and computed there, with the same results. An op whose tensors are partly there and
partly here raises, as on a GPU, and what a GPU's queue would have to be emptied for is counted. It says nothing about
speed, memory or rounding. `pytest --device standin` lets tests and commands compute there.

It is built on torch's experimental Python backends (`_setup_privateuseone_for_python_backend`), which come and go.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "standin"
ATEN = torch.ops.aten
POSSIBLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
MOVING = (ATEN.copy_.default, ATEN._to_copy.default, ATEN.copy.default)
INDEXED = (ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default)
JOINING = (ATEN.cat.default, ATEN.stack.default)  # which take no number of the CPU among tensors of a GPU
NUMBER = ATEN._local_scalar_dense.default
SIZED_BY_VALUES = (
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN._unique2.default,
    ATEN.repeat_interleave.Tensor,
)
FACTORIES = (
    "arange",
    "arange.start",
    "arange.start_step",
    "linspace",
    "randperm",
    "randperm.generator",
    "eye",
    "eye.m",
)
waits: Counter[str] = Counter()
"""The line of the package -> how often it waited for the device."""
_library: Any = None  # what it registers lives as long as it does


class Held(Tensor):
    """A tensor of the device; `held` is that of the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        made: Any = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made  # type: ignore[no-any-return]

    def __init__(self, held: Tensor) -> None:
        """Take `held`, as `__new__` did."""

    def tolist(self) -> Any:
        _note_wait()
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy; use Tensor.cpu() first")

    __array__ = numpy

    def as_subclass(self, cls: type[Tensor]) -> Any:
        """Return this tensor as one of another class, which stays on the device."""
        own = {"__torch_function__": Held.__torch_function__, "__torch_dispatch__": Held.__torch_dispatch__}
        return type(f"Held{cls.__name__}", (cls, Held), own)(self.held)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Files keep it as they keep a tensor of the CPU."""
        return self.held.detach().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Held({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})


def install() -> None:
    """Make the device known to torch; `waits` begins to count.

    There is no inference mode for it: torch knows no inference tensors of a Python backend.
    """
    global _library
    if _library is not None:
        return
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    _library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    _library.impl("empty.memory_format", _empty, "PrivateUse1")
    _library.impl("empty_strided", _empty_strided, "PrivateUse1")
    _library.impl("_copy_from", _copy_from, "PrivateUse1")
    _library.impl("_local_scalar_dense", lambda x: x.held.item(), "PrivateUse1")
    for name in FACTORIES:
        _library.impl(name, _factory(name), "PrivateUse1")
    torch.inference_mode = _WithoutGradients  # type: ignore[misc, assignment]


def compute_there() -> None:
    """Let commands that are given no device compute there."""
    from deconvviz.run import opening

    usual = opening.device_of

    def device_of(name: str) -> torch.device:
        return usual(NAME if name == "auto" else name)

    for module in list(sys.modules.values()):
        if getattr(module, "device_of", None) is usual:
            vars(module)["device_of"] = device_of


class _Module(backend_registration._DummyBackendModule):
    """What `torch.standin` is: numbers drawn at random there are those of the CPU."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


class _WithoutGradients(torch.no_grad):
    """The stand-in for `torch.inference_mode`, as a decorator and in a `with` block."""

    def __new__(cls, mode: Any = True) -> Any:
        if callable(mode):
            return super().__new__(cls)(mode)
        return super().__new__(cls) if mode else torch.enable_grad()

    def __init__(self, mode: bool = True) -> None:
        super().__init__()


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Compute on the CPU what was asked of the device, and return it where it belongs."""
    _require_one_device(func, args, kwargs)
    flat, form = tree_flatten((args, kwargs))
    asked = kwargs.get("device")
    there = torch.device(asked).type == NAME if asked is not None else any(isinstance(each, Held) for each in flat)
    if func is ATEN.copy_.default:
        there = isinstance(args[0], Held)
    if _waits(func, args, flat, there):
        _note_wait()
    own_args, own_kwargs = tree_unflatten([_here(each) for each in flat], form)
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.Python)):
        result = func(*own_args, **own_kwargs)
    for each in flat:
        if torch.Tag.inplace_view not in func.tags and isinstance(each, Held) and each.size() != each.held.size():
            raise NotImplementedError(f"{func} resized a tensor, which the stand-in cannot")
    if func is NUMBER or not there:
        return result
    result = tree_map(lambda each: Held(each) if isinstance(each, Tensor) else each, result)
    moved = asked is not None or func is ATEN._to_copy.default
    return result if moved else return_and_correct_aliasing(func, args, kwargs, result)  # type: ignore[no-untyped-call]


def _require_one_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise as a GPU does where some tensors of an op are there and others here; numbers of the CPU go anywhere."""
    if func in MOVING or func is NUMBER:
        return
    if func in INDEXED:
        if not isinstance(args[0], Held) and any(isinstance(each, Held) for each in args[1]):
            raise RuntimeError(f"{func}: indices should be either on cpu or on the device of the tensor (cpu)")
        args = (args[0], *args[2:])
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
    here = [each for each in tensors if not isinstance(each, Held) and (each.dim() or func in JOINING)]
    if here and len(here) < len(tensors):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found {NAME}:0 and cpu")


def _waits(func: Any, args: tuple[Any, ...], flat: list[Any], there: bool) -> bool:
    """Whether the host has to wait for the device: for a number, for a size, or for values that it copies."""
    if func is NUMBER or func in SIZED_BY_VALUES:
        return any(isinstance(each, Held) for each in flat)
    if func in MOVING:
        return not there and any(isinstance(each, Held) for each in flat)
    return func is ATEN.index.Tensor and any(
        isinstance(each, Held) and each.dtype in (torch.bool, torch.uint8) for each in args[1]
    )


def _note_wait() -> None:
    """Count a wait for the line of the package that is nearest."""
    frame: Any = sys._getframe(1)
    while frame is not None and "/deconvviz/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is not None:
        waits[f"{frame.f_code.co_filename.rpartition('/deconvviz/')[2]}:{frame.f_lineno}"] += 1


def _here(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == NAME else value
    return value.held if isinstance(value, Held) else value


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return Held(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Held(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _here(target).copy_(_here(source))
    return target


def _factory(name: str) -> Callable[..., Tensor]:
    """Return what makes a tensor there whose values follow from numbers; the CPU's op of that name makes them."""
    op, _, overload = name.partition(".")
    make = getattr(getattr(ATEN, op), overload or "default")

    def made(*args: Any, device: Any = None, pin_memory: Any = None, **more: Any) -> Tensor:
        return Held(make(*args, device=torch.device("cpu"), **more))

    return made


__all__ = ["NAME", "POSSIBLE", "Held", "compute_there", "install", "waits"]
