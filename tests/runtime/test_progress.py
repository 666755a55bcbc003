"""Progress goes to its stream, says how long is left, and ends its stage whatever happens."""

import io
import re

import pytest

from ddimcache.runtime import progress
from ddimcache.runtime.progress import BarProgress, LineProgress, SilentProgress, progress_for


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_say_what_is_left_without_the_first_step(clock):
    stream = io.StringIO()
    with LineProgress(stream).stage("denoise", 10) as stage:
        clock[0] += 60  # kernels are compiled
        stage.advance()
        for _ in range(3):
            clock[0] += 5
            stage.advance(note="cached")
    assert stream.getvalue().splitlines() == [
        "denoise: 1 of 10",
        "denoise: 3 of 10, about 35 s left (cached)",
        "denoise: done in 75.0 s",
    ]


def test_short_stages_are_silent(clock):
    stream = io.StringIO()
    with LineProgress(stream).stage("text", None) as stage:
        stage.advance()
    assert stream.getvalue() == ""


def test_lines_of_a_failed_stage_say_nothing_of_an_end(clock):
    stream = io.StringIO()

    def fail():
        with LineProgress(stream).stage("text", 3):
            clock[0] += 60
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stream.getvalue() == ""


def test_bars_show_name_count_and_note():
    stream = io.StringIO()
    with BarProgress(stream).stage("send [KiB]", 3) as stage:
        stage.advance(2, note="unet.so")
    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", stream.getvalue())
    assert "send [KiB]" in text
    assert "2/3" in text


def test_streams_that_are_no_terminal_get_lines():
    assert isinstance(progress_for(io.StringIO()), LineProgress)
    with SilentProgress().stage("x", 1) as stage:
        stage.advance()
