"""Where real reference data is, for tests that use it where it is at hand."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def shared_file(name: str) -> Path:
    """Path of a data file; skips the test, with the reason, where the data is absent."""
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the reference data ../shared/data/{name} is not here")
    return path
