"""Write a file whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file in an error of the operating system that does not, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `target`, moved onto it when the block ends without an error.

    Where `target` is a link, the file that it points to is replaced; into what is no plain file
    (a pipe, `/dev/stdout`) the result is written when it is whole.

    Parameters
    ----------
    target : path
        The file to replace. Its folder must exist.

    Yields
    ------
    Path
        A path in the same folder (hence the same file system) with the same suffix, so that
        writers which guess a format from the name guess the right one.

    Raises
    ------
    OSError
        Names `target`, also where the system names no file, such as on a full disk.
    """
    target = Path(target)
    with naming(target):
        if target.exists() and not target.is_file():
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / target.name
                yield temporary
                with temporary.open("rb") as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            return
        target = Path(os.path.realpath(target))
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}.", suffix="".join(target.suffixes)
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp makes private files (0600): give the result the user's usual permissions.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `target` whole or not at all."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")
