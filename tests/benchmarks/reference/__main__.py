"""`python tests/benchmarks/reference`: make the packaged reference data again."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ase_ws.errors import UserError
from ase_ws.jobs.pool import usable_cores

# A folder that is run is no package: its modules are found from the folder above, whatever the
# working folder is.
sys.path.insert(0, str(Path(__file__).parents[1]))

from reference.settings import Gfn2Settings, MethanolSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make the packaged reference data: sample geometries and label them.",
)
console = Console(stderr=True)

T = TypeVar("T")

Work = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the journals; a killed run goes on from them. "
        "[default: a folder beside OUT]"
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]
Seed = Annotated[int, typer.Option(min=0, help="Everything random follows from it.")]

GFN2 = Gfn2Settings()
METHANOL = MethanolSettings()
N_CORES = usable_cores()


@app.command()
def gfn2(
    *,
    out: Annotated[Path, typer.Option(help="Extended XYZ file to write.")],
    work: Work = None,
    seed: Seed = GFN2.seed,
    n_first: Annotated[int, typer.Option(min=1, help="Frames of methanol.")] = GFN2.n_first,
    n_each: Annotated[
        int, typer.Option(min=1, help="Frames of each other molecule.")
    ] = GFN2.n_each,
    workers: Workers = N_CORES,
) -> None:
    """Small CHO molecules with GFN2-xTB energies and forces."""
    _require_extra("tblite")
    from reference.datasets import make_gfn2

    settings = Gfn2Settings(seed=seed, n_first=n_first, n_each=n_each)
    work = _folder(work or out.with_suffix(".work"))
    _folder(out.parent)
    n = _with_progress(lambda p: make_gfn2(settings, out, work=work, workers=workers, progress=p))
    console.print(f"{n} frames in {out}")


@app.command()
def methanol(
    *,
    out: Annotated[Path, typer.Option(help="Folder for the two extended XYZ files.")],
    work: Work = None,
    seed: Seed = METHANOL.seed,
    n_train: Annotated[
        int, typer.Option(min=1, help="Frames with energies only.")
    ] = METHANOL.n_train,
    n_test: Annotated[
        int, typer.Option(min=0, help="Held-out frames with energies and forces.")
    ] = METHANOL.n_test,
    workers: Workers = N_CORES,
) -> None:
    """Methanol at the focal-point CCSD(T) level, in a training and a held-out set."""
    _require_extra("tblite", "pyscf")
    from reference.datasets import make_methanol

    settings = MethanolSettings(seed=seed, n_train=n_train, n_test=n_test)
    work = _folder(work or out / "methanol_ccsdt.work")
    _folder(out)
    written = _with_progress(
        lambda p: make_methanol(settings, out, work=work, workers=workers, progress=p)
    )
    for name, n in written.items():
        console.print(f"{n} frames in {out / name}")


def _require_extra(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"reference data need {' and '.join(missing)}, not installed here: "
            'pip install "ase-ws[reference]"'
        )


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _with_progress(job: Callable[[Progress], T]) -> T:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with Progress(*columns, console=console) as progress:
        result = job(progress)
    console.print(f"done in {time.monotonic() - start:.0f} s")
    return result


def main() -> None:
    """Run the command line; bad input is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
