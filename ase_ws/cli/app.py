"""The program: its commands, and how it ends."""

from __future__ import annotations

import errno
import io
import sys
import warnings
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from ase_ws._version import __version__
from ase_ws.cli import campaign, demo, evaluate, md, models, report, stability, train
from ase_ws.cli.output import err_console, out_console, plain, say_json
from ase_ws.errors import AnsweredError, UserError

app = typer.Typer(
    name="ase-ws",
    help="Fine-tune MACE-like potentials on sparse labels with weak losses, run them in ASE, "
    "and know whether to trust them.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


for command in (
    demo.demo,
    train.finetune,
    evaluate.evaluate,
    md.md,
    stability.stability,
    report.report,
    campaign.campaign,
    models.info,
    models.export,
):
    app.command()(command)


def main() -> None:
    """Run the command line; a mistake, or a full disk, ends in one line and exit code 2."""
    warnings.showwarning = _one_line
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has no Å gets a question mark in its place.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (UserError, TyperException) as error:
        if isinstance(error, AnsweredError):
            say_json(error.answer)
        _end(getattr(error, "format_message", error.__str__)())
    except OSError as error:
        _end(_of_the_system(error))
    except (KeyboardInterrupt, typer.Abort):
        err_console.print("interrupted", style="yellow")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _end(text: str) -> NoReturn:
    err_console.print(f"[bold red]error:[/] {plain(text)}", soft_wrap=True)
    sys.exit(2)


#: What can be done about errors of the operating system.
_REMEDIES = {
    errno.ENOSPC: "free some space; what was written before is whole, --resume goes on where the "
    "command has it",
    errno.EACCES: "look at the permissions, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _of_the_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0, "look at the file and its folder")
    return f"{where}{error.strerror or error}; {remedy}"


def _one_line(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Print a warning as users read it, without the line of code that it came from."""
    err_console.print(f"[yellow]note:[/] {plain(str(message))}", highlight=False, soft_wrap=True)


def _version(value: bool) -> None:
    if value:
        out_console.print(f"ase-ws {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
