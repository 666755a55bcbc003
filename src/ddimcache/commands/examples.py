"""Examples at the end of a verb's help, printed so that they can be pasted from there."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


def _print_after(command: Any, help_of: Any, *arguments: Any) -> None:
    """Call ``help_of`` and print the epilog behind it, line by line as it is written.

    The library would fill each line with blanks, and a backslash before blanks continues no command.
    """
    examples, command.epilog = command.epilog, None
    try:
        help_of(*arguments)
    finally:
        command.epilog = examples
    print(f" Examples\n{examples}")


class Verb(TyperCommand):
    """A command whose epilog are examples."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; the library's method."""
        _print_after(self, super().format_help, ctx, formatter)


class VerbGroup(TyperGroup):
    """A group of commands whose epilog are examples."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; the library's method."""
        _print_after(self, super().format_help, ctx, formatter)
