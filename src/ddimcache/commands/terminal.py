"""How a verb talks: results to standard output, everything else to standard error."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from ddimcache.errors import UsageError
from ddimcache.runtime.progress import Progress, Stage, progress_for

if TYPE_CHECKING:
    from ddimcache.runtime.image import MemoryChoice

_SIZE = re.compile(r"(\d{1,5})[xX×](\d{1,5})")
_SIZES = re.compile(r"(\d{1,5})(?:\.\.(\d{1,5}))?[xX×](\d{1,5})(?:\.\.(\d{1,5}))?(?::(\d{1,5}))?")
_MOST_SIZES = 1000
# Tabs and ends of lines excepted.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


def say(message: str) -> None:
    """Write a line to standard error."""
    print(_harmless(message), file=sys.stderr, flush=True)


def _harmless(text: str) -> str:
    """Spell what a terminal would obey: names come from bundles and servers, with anything in them."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def print_json(value: dict[str, Any]) -> None:
    """Write one JSON object to standard output, escaped where its encoding lacks letters."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1, allow_nan=False)
    print(text, flush=True)


_signals: list[int] = []
_AGAIN_SECONDS = 0.05


@contextmanager
def noting_signals() -> Iterator[None]:
    """Remember Ctrl-C, and what :func:`cleaning_up` hears of, for :func:`signalled`."""
    _signals.clear()
    usual_hook = sys.unraisablehook

    def send_again(ignored: sys.UnraisableHookArgs) -> None:
        """A signal that came while an object was freed, where what its handler raises is passed over."""
        if not _signals or ignored.exc_type not in (KeyboardInterrupt, SystemExit):
            usual_hook(ignored)
            return
        threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), _signals.pop())).start()

    sys.unraisablehook = send_again
    try:
        with _handled(signal.SIGINT, _interrupt) if _is_usual(signal.SIGINT) else nullcontext():
            yield
    finally:
        sys.unraisablehook = usual_hook


def signalled() -> int | None:
    """Return the exit code of a signal that has come, or None.

    What a handler raises may come out as another error: TVM makes one of its own where it called Python.
    """
    return 128 + _signals[0] if _signals else None


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Let SIGTERM end the process as Ctrl-C does, so that what is half done is removed.

    Does nothing in another thread than the main one, where no signal is handled.
    """
    with _handled(signal.SIGTERM, _end):
        yield


def _interrupt(number: int, _: FrameType | None) -> None:
    _signals.append(number)
    raise KeyboardInterrupt


def _end(number: int, _: FrameType | None) -> None:
    _signals.append(number)
    sys.exit(128 + number)


def _is_usual(number: int) -> bool:
    # A shell starts what is behind an & with it ignored.
    return signal.getsignal(number) is signal.default_int_handler


@contextmanager
def _handled(number: int, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def progress() -> Progress:
    """Return where progress goes: bars on a terminal, lines elsewhere, always standard error.

    Work that goes on behind a signal, because what its handler raised was passed over, ends there.
    """
    return _Attentive(progress_for(sys.stderr))


class _Attentive:
    def __init__(self, shown: Progress) -> None:
        self._shown = shown

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Stage]:
        """Open the stage that is shown."""
        with self._shown.stage(name, total) as stage:
            yield _AttentiveStage(stage)


class _AttentiveStage:
    def __init__(self, shown: Stage) -> None:
        self._shown = shown

    def advance(self, count: int = 1, note: str = "") -> None:
        """Show it, or end the work."""
        if _signals and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt if _signals[0] == signal.SIGINT else SystemExit(128 + _signals[0])
        self._shown.advance(count, note)


def parse_size(text: str | None) -> tuple[int, int]:
    """Read ``512x768`` as (width, height) in pixels, None as (0, 0); raises :class:`UsageError`."""
    if text is None:
        return (0, 0)
    match = _SIZE.fullmatch(text.strip())
    if match is None or 0 in (width_height := (int(match[1]), int(match[2]))):
        raise UsageError(f"{text!r} is no size", where="--size", remedy="write WIDTHxHEIGHT, such as 512x512")
    return width_height


def asked(size: str | None) -> tuple[int, int] | None:
    """Read ``--size`` as (width, height) in pixels, None as no size; raises :class:`UsageError`."""
    return None if size is None else parse_size(size)


def parse_sizes(text: str | None) -> tuple[tuple[int, int], ...]:
    """Read ``512x512,384..640x384..640:64`` as sizes in pixels, each once; None as no size.

    A range goes up in steps of the number behind the colon, 64 without one. Raises :class:`UsageError`.
    """
    sizes: dict[tuple[int, int], None] = {}
    for part in [] if text is None else text.split(","):
        match = _SIZES.fullmatch(part.strip())
        numbers = [int(number or 0) for number in match.groups()] if match else [0] * 5
        width, last_width, height, last_height, step = numbers
        has_range = last_width or last_height
        if not (width and height) or (match is not None and match[5] and not (has_range and step)):
            raise UsageError(
                f"{part!r} is no size",
                where="--size",
                remedy="write WIDTHxHEIGHT, such as 512x512, several with commas, or 384..640x384..640:64",
            )
        sides = [
            range(first, (last or first) + 1, step or 64)
            for first, last in ((width, last_width), (height, last_height))
        ]
        if not all(sides) or len(sizes) + len(sides[0]) * len(sides[1]) > _MOST_SIZES:
            problem = "is empty" if not all(sides) else f"makes more than {_MOST_SIZES} sizes"
            raise UsageError(f"{part!r} {problem}", where="--size", remedy="write 384..640x384..640:64")
        sizes.update(dict.fromkeys(itertools.product(sides[0], sides[1])))
    return tuple(sizes)


def parse_bytes(text: str | None, option: str) -> int | None:
    """Read ``500M``, ``1.5GiB`` or a plain number of bytes; raises :class:`UsageError` naming the option."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?)B?", text.strip().upper())
    if match is None or match[2] == "I":
        raise UsageError(f"{text!r} is no number of bytes", where=option, remedy="write 500M or 1.5GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def memory_choice(mode: str, budget: str | None) -> MemoryChoice:
    """Read ``--memory`` and ``--memory-budget``; raises :class:`UsageError` that names the option."""
    from ddimcache.runtime.image import MEMORY_MODES, MemoryChoice

    found = next((name for name in MEMORY_MODES if name == mode), None)
    if found is None:
        raise UsageError(f"{mode!r} is none of: {', '.join(MEMORY_MODES)}", where="--memory")
    return MemoryChoice(found, parse_budget(budget))


def parse_budget(text: str | None) -> int | None:
    """Read ``--memory-budget``; raises :class:`UsageError` for what is no number of bytes, and for none."""
    count = parse_bytes(text, "--memory-budget")
    if count == 0:
        raise UsageError("0 bytes is no budget", where="--memory-budget")
    return count


def bytes_text(count: int) -> str:
    """Return a number of bytes for people: ``1.80 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def seconds_text(seconds: float | None) -> str:
    """Return a time for people: ``1.24 s``, ``83.1 ms``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def print_table(
    rows: Sequence[Sequence[str]], heading: Sequence[str] | None = None, *, right: tuple[int, ...] = ()
) -> None:
    """Write a plain table to standard output; ``right`` numbers the columns that end flush, from 0."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=heading is not None, padding=(0, 2, 0, 0))
    for index, name in enumerate(heading or rows[0]):
        side: Literal["left", "right"] = "right" if index in right else "left"
        table.add_column(name if heading else "", justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_harmless(cell)) for cell in row))
    # A pipe has no width: nothing is cut there.
    Console(width=None if sys.stdout.isatty() else 400, highlight=False).print(table)
