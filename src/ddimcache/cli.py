"""The command line: puts the verbs together and turns expected errors into a message and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated. Modules that take long to import
(TVM, PyTorch) are imported by the verbs that need them, when they need them.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, NoReturn

import typer

from ddimcache import __version__
from ddimcache.commands import (
    batch,
    bench,
    devices,
    doctor,
    generate,
    inspect,
    profile,
    quality,
    schedule,
    serve,
    tracker,
    tune,
)
from ddimcache.commands import compile as compile_command
from ddimcache.commands.examples import Verb, VerbGroup
from ddimcache.commands.terminal import noting_signals, say, signalled
from ddimcache.errors import DdimcacheError

INTERRUPTED = 130
"""What typer makes of Ctrl-C, as shells do."""
TERMINATED = 143
"""The same of SIGTERM, where a verb cleans up first."""

app = typer.Typer(
    name="ddimcache",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ddimcache {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Stable-Diffusion-family models on OpenCL phone GPUs: compile, run here or over RPC, look inside."""


app.command("generate", cls=Verb, epilog=generate.EXAMPLES)(generate.generate)
app.command("batch", cls=Verb, epilog=batch.EXAMPLES)(batch.batch)
app.command("compile", cls=Verb, epilog=compile_command.EXAMPLES)(compile_command.compile_model)
app.command("inspect", cls=Verb, epilog=inspect.EXAMPLES)(inspect.inspect_bundle)
app.command("profile", cls=Verb, epilog=profile.EXAMPLES)(profile.profile)
app.command("quality", cls=Verb, epilog=quality.EXAMPLES)(quality.quality)
app.command("schedule", cls=Verb, epilog=schedule.EXAMPLES)(schedule.schedule)
app.command("tune", cls=Verb, epilog=tune.EXAMPLES)(tune.tune)
app.command("devices", cls=Verb, epilog=devices.EXAMPLES)(devices.devices)
app.command("doctor", cls=Verb, epilog=doctor.EXAMPLES)(doctor.doctor)
app.add_typer(bench.app, name="bench", cls=VerbGroup, epilog=bench.EXAMPLES)
app.command("serve", cls=Verb, epilog=serve.EXAMPLES)(serve.serve)
app.command("tracker", cls=Verb, epilog=tracker.EXAMPLES)(tracker.tracker)


def main(arguments: list[str] | None = None) -> None:
    """Run a command line (that of the process by default) and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal of another encoding gets question marks, and so does a file's name that is no text.
        sys.stdout.reconfigure(errors="replace")
    with noting_signals():
        try:
            app(args=arguments, prog_name="ddimcache")
        except SystemExit as end:
            _say_interrupted(end.code)
            raise
        except Exception as error:
            if (code := signalled()) is not None:
                _say_interrupted(code)
                sys.exit(code)
            _fail(error)


def _say_interrupted(code: object) -> None:
    if code in (INTERRUPTED, TERMINATED):
        say("ddimcache: interrupted, no result was written")


def _fail(error: Exception) -> NoReturn:
    """Exit with the message of an error that is expected; others fly."""
    if isinstance(error, DdimcacheError):
        say(f"ddimcache: {error}")
        sys.exit(error.exit_code)
    if isinstance(error, BrokenPipeError):
        # The reader of our output has left: nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    if isinstance(error, OSError):
        say(f"ddimcache: {error.filename or 'input or output'}: {error.strerror or error}")
        sys.exit(1)
    raise error


if __name__ == "__main__":
    main()
