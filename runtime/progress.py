"""How long work tells the reader how far it is: to a terminal, to a log, or to nobody.

Work that takes longer than a second takes a :class:`Progress` and opens one stage after another::

    with progress.stage("text encoder", total=3) as stage:
        for part in parts:
            compile(part)
            stage.advance(note=part.name)

Nothing here writes to standard output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Protocol


class Stage(Protocol):
    """One stage of the work."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that ``count`` more units are done; ``note`` is shown until the next call."""


class Progress(Protocol):
    """Where stages are shown."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Stage]:
        """Open a stage of ``total`` units (None: not known); leaving it ends it, whatever happened."""


class _SilentStage:
    def advance(self, count: int = 1, note: str = "") -> None:
        """Forget it."""


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Stage]:
        """Open a stage that nobody sees."""
        yield _SilentStage()


class _BarStage:
    def __init__(self, bars, task) -> None:  # type: ignore[no-untyped-def]
        self._bars, self._task = bars, task

    def advance(self, count: int = 1, note: str = "") -> None:
        """Move the bar."""
        self._bars.update(self._task, advance=count, note=note)


class BarProgress:
    """Bars with the time left, on a terminal; a stage stays on the screen with its time when it is done."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Stage]:
        """Open a stage shown as one bar."""
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        bars = Bars(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(file=self._stream or sys.stderr),
        )
        with bars:
            task = bars.add_task(escape(name), total=total, note="")
            yield _BarStage(bars, task)
            bars.update(task, note="")


class _LineStage:
    def __init__(self, name: str, total: int | None, stream: IO[str]) -> None:
        self._name, self._total, self._stream = name, total, stream
        self._done = self._first = 0
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Write a line, at most one every ten seconds."""
        now = time.monotonic()
        if self._done == 0:
            # What comes first often prepares the rest, so the time left is told from the second report on.
            self._first, self._start = count, now
        self._done += count
        if now - self._last >= 10:
            self._last = now
            left = ""
            if self._total and self._done > self._first:
                rate = (now - self._start) / (self._done - self._first)
                left = f", about {rate * (self._total - self._done):.0f} s left"
            of_total = f" of {self._total}" if self._total else ""
            suffix = f" ({note})" if note else ""
            print(f"{self._name}: {self._done}{of_total}{left}{suffix}", file=self._stream, flush=True)


class LineProgress:
    """Plain lines, for logs: one when a stage of a second or more ends, and one every ten seconds of it."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Stage]:
        """Open a stage shown as lines."""
        stream = self._stream or sys.stderr
        start = time.monotonic()
        yield _LineStage(name, total, stream)
        seconds = time.monotonic() - start
        if seconds >= 1:
            print(f"{name}: done in {seconds:.1f} s", file=stream, flush=True)


def progress_for(stream: IO[str] | None = None) -> Progress:
    """Return bars where ``stream`` (standard error by default) is a terminal, and lines elsewhere."""
    stream = stream or sys.stderr
    return BarProgress(stream) if stream.isatty() else LineProgress(stream)
