"""Read a pickle of live objects without executing anything in it.

Upstream's `.model` files are such pickles, source code among them. Here every class in one becomes
an inert record of its attributes: no upstream code runs, no code from the file runs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_ws.errors import UnsafeFileError, UserError

# Everything that a MACE file names. A name from elsewhere is refused.
_ALLOWED = (
    "mace.",
    "e3nn.",
    "torch.nn.",
    "torch.fx.",
    "torch.tanh",
    "torch.abs",
    "torch._C._VariableFunctions",
    "builtins.getattr",  # how builtin functions such as torch.tanh are named; inert here
    "builtins.slice",
    # Numbers of NumPy, in files of the first versions; inert here, see `number_of`.
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


# Modules within modules; a file may claim any number, or a circle.
_MAX_DEPTH, _MAX_MODULES = 50, 100_000


class Inert:
    """Stands for an object of a class or a call of a function named in the file."""

    path = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Keep what it was called with."""
        record = super().__new__(cls)
        record.__dict__["args"] = args
        return record

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __getattr__(self, name: str) -> Any:
        for group in ("_buffers", "_parameters", "_modules"):
            members = self.__dict__.get(group) or {}
            if name in members:
                return members[name]
        raise AttributeError(name)

    @property
    def kind(self) -> str:
        """Name of the class or function."""
        return self.path.rpartition(".")[2]


def number_of(value: Any) -> Any:
    """Give a number of NumPy as Python's, where the file holds one; else the value as it is."""
    if not (isinstance(value, Inert) and value.path.endswith("multiarray.scalar")):
        return value
    kind, raw = value.args
    code = kind.args[0]
    if code not in ("i4", "i8", "f4", "f8") or not isinstance(raw, bytes):
        raise ValueError(f"a number of kind {code!s:.20}")
    return np.frombuffer(raw, dtype=f"<{code}", count=1)[0].item()


def load_inert(path: Path) -> Any:
    """Load what `torch.save` wrote, every class in it as `Inert`; tensors are tensors.

    Raises
    ------
    UnsafeFileError
        The file names something outside the allow-list.
    UserError
        It is not such a file.
    """
    if not zipfile.is_zipfile(path):
        raise UserError("not a model file; expected .safetensors or a mace-torch .model")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        if any(member.filename.endswith("constants.pkl") for member in members):
            raise UserError("a compiled TorchScript model; give the '.model' file it was made from")
        # Such files are not compressed: more content than file is damage, or a bomb.
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise UserError("damaged: it says that it holds more than it does")
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        for name in names:
            if not name.startswith(_ALLOWED):
                raise UnsafeFileError(
                    f"names '{name}', which no MACE model needs; the file is not trusted "
                    "and was not loaded"
                )
        # Each name maps to an inert class of its own, never to what it names.
        stubs: list[Any] = [(type(n.rpartition(".")[2], (Inert,), {"path": n}), n) for n in names]
        with torch.serialization.safe_globals(stubs):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        # zipfile and torch.load raise all sorts of errors on damaged and hostile files.
        detail = " ".join(str(error).split())
        raise UserError(
            f"cannot be read as a mace-torch model ({detail:.200}); it may be damaged or "
            "half a download: get it again"
        ) from error


def tensors_of(
    record: Inert, prefix: str = "", depth: int = 0, met: list[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Give weights and persistent buffers of a module and all below it, by name."""
    met = [0] if met is None else met
    met[0] += 1
    if depth > _MAX_DEPTH or met[0] > _MAX_MODULES:
        raise ValueError("modules within modules without end")
    for group in ("_parameters", "_buffers"):
        skip = record.__dict__.get("_non_persistent_buffers_set") or ()
        for name, value in (record.__dict__.get(group) or {}).items():
            if isinstance(value, Tensor) and name not in skip:
                yield f"{prefix}{name}", value.detach()
    for name, child in (record.__dict__.get("_modules") or {}).items():
        if isinstance(child, Inert):
            yield from tensors_of(child, f"{prefix}{name}.", depth + 1, met)
