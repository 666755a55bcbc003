"""The search for a schedule: it finds what the loop's own pictures prefer, and is kept in the bundle."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ddimcache.errors import BundleError, UsageError
from ddimcache.quality.schedules import choose, few_full_steps, placed
from ddimcache.quality.search import Calibration, search
from ddimcache.runtime.image import ImageRequest
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.quality_notes import MeasuredSetting, QualityNotes, SearchedSchedule

pytestmark = pytest.mark.host

REQUESTS = [ImageRequest((1,), (0,), seed, 20, 1, 2.0) for seed in range(3)]
BEST = (0, 2, 3, 11, 17)


class Session:
    """Draws pictures that are the worse the farther the full steps are from BEST."""

    def __init__(self):
        self.drawn = []

    def draw(self, request):
        self.drawn.append(request.full_steps)
        pixels = np.full((1, 4, 4, 3), 100 + request.noise, np.uint8)
        if len(request.full_steps) < request.steps:
            away = sum(abs(one - other) for one, other in zip(request.full_steps, BEST, strict=True))
            pixels += np.uint8(away)
        return SimpleNamespace(drawn=SimpleNamespace(pixels=pixels))


def test_the_search_finds_the_least_error():
    session = Session()
    calibration = Calibration(session, REQUESTS, SilentProgress())
    found = search(calibration, 20, 5, 200, SilentProgress())
    assert found.full_steps == BEST
    assert (found.error, found.uniform_error) == (0, calibration.error((0, 4, 8, 12, 16)))
    assert found.tried <= 200
    # A schedule that is already worse on the first prompts is not drawn for the others.
    assert len(session.drawn) < 3 * (found.tried + 1)


def test_the_search_keeps_to_its_limit():
    calibration = Calibration(Session(), REQUESTS, SilentProgress())
    found = search(calibration, 20, 5, 4, SilentProgress())
    assert found.tried == 4
    assert found.error <= found.uniform_error


def test_one_full_step_can_only_be_the_first():
    session = SimpleNamespace(
        draw=lambda request: SimpleNamespace(
            drawn=SimpleNamespace(pixels=np.full((1, 2, 2, 3), len(request.full_steps), np.uint8))
        )
    )
    found = search(Calibration(session, REQUESTS, SilentProgress()), 20, 1, 9, SilentProgress())
    assert (found.full_steps, found.tried) == ((0,), 1)


def test_errors_are_means_of_all_prompts():
    calibration = Calibration(Session(), REQUESTS, SilentProgress())
    moved = (0, 2, 3, 11, 19)
    assert calibration.error(moved) == pytest.approx(4)
    assert calibration.error((0, 2, 3, 12, 19), bound=4) == np.inf
    assert calibration.error((0, 2, 3, 12, 19)) == pytest.approx(9)


SEARCHED = SearchedSchedule(50, (0, 9, 20, 30, 40), 2.0, 30.0, 25.0)


@pytest.mark.parametrize(
    ("name", "interval", "least", "expected"),
    [
        ("auto", 10, None, ("searched", 10, None)),
        ("auto", 5, None, ("uniform", 5, None)),
        ("uniform", 10, None, ("uniform", 10, None)),
        ("auto", 10, 29.0, ("searched", 10, None)),
        ("auto", 10, 31.0, ("uniform", 5, "were measured below 31 dB to those without a cache: taking 5")),
        ("auto", 10, 36.0, ("uniform", 1, "the cache is off")),
        ("searched", 10, 36.0, ("searched", 10, "were measured below 36 dB")),
        ("quadratic", 10, 36.0, ("quadratic", 10, None)),  # not measured
        ("auto", 1, 36.0, ("uniform", 1, None)),
    ],
)
def test_the_gate_decides_what_auto_takes(name, interval, least, expected):
    measured = (
        MeasuredSetting(50, 10, "searched", 30.0),
        MeasuredSetting(50, 5, "uniform", 35.0),
    )
    notes = QualityNotes((SEARCHED,), measured, least)
    schedule, taken, said = choose(name, notes, 50, interval)
    assert (schedule, taken) == expected[:2]
    assert (said is None) == (expected[2] is None)
    assert said is None or expected[2] in said


@pytest.mark.parametrize(
    ("steps", "interval", "schedule", "warned"),
    [
        (10, 5, "uniform", True),
        (10, 3, "uniform", False),  # four full steps
        (100, 50, "quadratic", True),
        (3, 1, "uniform", False),  # no cache
        (50, 30, "searched", False),
        (50, 20, "uniform", False),  # measured
    ],
)
def test_a_cache_that_leaves_hardly_a_full_step_is_told(steps, interval, schedule, warned):
    notes = QualityNotes((), (MeasuredSetting(50, 20, "uniform", 30.0),), None)
    said = few_full_steps(notes, steps, interval, schedule)
    assert (said is not None) == warned
    assert said is None or f"leaves {-(-steps // interval)} of {steps} steps whole" in said


def test_a_name_that_is_none():
    with pytest.raises(UsageError, match="--cache-schedule: 'random' is none of: auto, uniform"):
        choose("random", QualityNotes(), 50, 5)


def test_what_was_not_searched_for_is_told(fake_bundle):
    from ddimcache.runtime.bundle import open_bundle

    with pytest.raises(UsageError, match=r"holds no schedule of 10 full steps in 50; ddimcache schedule "):
        placed("searched", open_bundle(fake_bundle), 50, 5)


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"schedules": 3}', b'{"schedules": [{"steps": 4, "full_steps": [1], "guidance": 1.0}]}'],
)
def test_notes_that_are_none(own_bundle, content):
    from ddimcache.compiler.bundle import with_file
    from ddimcache.runtime.bundle import open_bundle
    from ddimcache.runtime.quality_notes import NOTES_NAME, read_notes

    bundle = with_file(open_bundle(own_bundle), NOTES_NAME, content)
    with pytest.raises(BundleError, match=r"quality\.json: .*; search again with"):
        read_notes(bundle)


def test_a_schedule_is_asked_for_by_its_budget():
    deeper = replace(SEARCHED, full_steps=(0, 20, 35), budget=5)
    plain = replace(SEARCHED, full_steps=(0, 15, 30))
    notes = QualityNotes((deeper, plain))
    assert notes.searched(50, 5) == (0, 20, 35)
    assert notes.searched(50, 3) == (0, 15, 30)
    assert notes.searched(50, 4) is None
    assert choose("auto", notes, 50, 10)[:2] == ("searched", 10)


def test_steps_that_no_loop_takes_are_refused(own_bundle):
    import json

    from ddimcache.compiler.bundle import with_file
    from ddimcache.records import to_json
    from ddimcache.runtime.bundle import open_bundle
    from ddimcache.runtime.quality_notes import NOTES_NAME, read_notes

    for steps in ((), (1, 2), (0, 3, 3), (0, 50)):
        notes = QualityNotes((replace(SEARCHED, full_steps=steps),))
        bundle = with_file(open_bundle(own_bundle), NOTES_NAME, json.dumps(to_json(notes)).encode())
        with pytest.raises(BundleError, match="are no full steps of 50"):
            read_notes(bundle)


def test_a_budget_beyond_all_steps_is_refused(own_bundle):
    import json

    from ddimcache.compiler.bundle import with_file
    from ddimcache.records import to_json
    from ddimcache.runtime.bundle import open_bundle
    from ddimcache.runtime.quality_notes import NOTES_NAME, read_notes

    notes = QualityNotes((replace(SEARCHED, budget=51),))
    bundle = with_file(open_bundle(own_bundle), NOTES_NAME, json.dumps(to_json(notes)).encode())
    with pytest.raises(BundleError, match="a budget of 51 is more than 50 steps"):
        read_notes(bundle)
