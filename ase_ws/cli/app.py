"""The program: its commands, and how it ends."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ase_ws._version import __version__
from ase_ws.cli import campaign, demo, md, models, report, stability, train
from ase_ws.cli.output import err_console, out_console, plain
from ase_ws.errors import UserError

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
    train.evaluate,
    md.md,
    stability.stability,
    report.report,
    campaign.campaign,
    models.info,
    models.export,
):
    app.command()(command)


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except (UserError, TyperException) as error:
        text = getattr(error, "format_message", error.__str__)()
        err_console.print(f"[bold red]error:[/] {plain(text)}", soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        err_console.print("interrupted", style="yellow")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


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
