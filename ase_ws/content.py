"""What an object is, by content: bytes that are the same in another process, or on another day."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

_PLAIN = bool | int | float | complex | str | bytes | np.generic | None


def short_hash(parts: Iterable[bytes]) -> str:
    """Give the first 16 digits of the SHA-256 of all parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def class_name(value: Any) -> bytes:
    """Name a value by its class."""
    return f"{type(value).__module__}.{type(value).__qualname__}".encode()


def content(value: Any, *, deep: bool = False, within: tuple[int, ...] = ()) -> Iterator[bytes]:
    """Give a value as bytes: plain data, arrays, tensors, dataclasses, and containers of them.

    Parameters
    ----------
    value : any
    deep : bool
        Of functions also the code, the defaults and what they enclose, and of any other object
        what it holds: for objects that are set up by their user and count nothing. Else these are
        their class alone: what others' objects hold may change with every call. What a function
        finds in its module is not followed.
    within : tuple of int
        What is being described already: rings end there.
    """
    if isinstance(value, torch.Tensor):
        yield from _tensor(value)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, _PLAIN):
        yield repr(value).encode()
    elif id(value) in within:
        yield class_name(value)
    else:
        for part in _parts(value, deep=deep):
            if isinstance(part, _Said):
                yield part
            else:
                yield from content(part, deep=deep, within=(*within, id(value)))


class _Said(bytes):
    """Bytes that are said as they are."""


def _parts(value: Any, *, deep: bool) -> Iterator[Any]:
    """Give what is said of a value, and what is described in its turn."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield _Said(str(key).encode())
            yield value[key]
    elif isinstance(value, list | tuple | np.ndarray):
        yield _Said(f"{len(value)} of".encode())
        yield from value
    elif not deep and dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield vars(value)
    else:
        # Anything else may be shown with its address in memory.
        yield _Said(class_name(value))
        if deep:
            yield from _held(value)


def _tensor(value: torch.Tensor) -> Iterator[bytes]:
    value = value.detach().cpu()
    # Not every precision of torch has one in NumPy; the bytes of all can be read.
    yield f"{value.dtype}{tuple(value.shape)}".encode()
    if not value.is_sparse and not value.is_quantized:
        yield value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _held(value: Any) -> tuple[Any, ...]:
    """Give what an object is beside its class."""
    for kinds, held in _HELD:
        if isinstance(value, kinds):
            return held(value)
    if callable(getattr(value, "fingerprint", None)):
        return (str(value.fingerprint()),)
    if isinstance(value, torch.nn.Module):
        settings = {k: v for k, v in vars(value).items() if isinstance(v, _PLAIN)}
        return settings, dict(value.named_children()), value.state_dict()
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return ({**held, **getattr(value, "__dict__", {})},)


#: What is told of Python's own kinds of objects.
_HELD: tuple[tuple[Any, Callable[[Any], tuple[Any, ...]]], ...] = (
    (
        FunctionType,
        lambda f: (
            f.__qualname__,
            f.__code__,
            f.__defaults__,
            f.__kwdefaults__,
            [cell.cell_contents for cell in f.__closure__ or ()],
        ),
    ),
    (CodeType, lambda code: (code.co_code, code.co_consts, code.co_names)),
    (MethodType, lambda method: (method.__func__, method.__self__)),
    (functools.partial, lambda part: (part.func, part.args, part.keywords)),
    (
        type | BuiltinFunctionType | ModuleType,
        lambda it: (getattr(it, "__module__", ""), it.__name__),
    ),
    (set | frozenset, lambda it: (sorted(short_hash(content(x, deep=True)) for x in it),)),
)
