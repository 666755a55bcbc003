"""``ddimcache bench table1``, on a model of sd15's structure at widths that compile in seconds."""

import pytest

from ddimcache.bench import unet
from ddimcache.bench.table1 import PUBLISHED_SECONDS
from tests.kit.family import stand_in
from tests.kit.shared_bundles import compiled

LOOP_KEYS = {
    "steps",
    "cache_interval",
    "full_steps",
    "cached_steps",
    "seconds",
    "speedup",
    "efficiency",
    "published_seconds",
    "published_speedup",
}


@pytest.fixture
def table1(run, monkeypatch):
    # Small networks only lose by a second thread, a hundredfold where another process has the core.
    monkeypatch.setattr(unet, "core_count", lambda spec: 1)
    model = stand_in("tiny-sd15")
    subject = ("--model", compiled(model, target="llvm").folder, "--reference", model)
    return lambda *options: run("bench", "table1", *subject, "--device", "llvm", *options)


def test_every_loop_is_measured(table1):
    done = table1("--steps", "3,20", "--intervals", "2,5", "--guidance", 1, "--repeats", 2, "--json")
    assert done.code == 0
    result = done.json
    assert 0 < result["error"] < 1e-2
    loops = {(loop["steps"], loop["cache_interval"]): loop for loop in result["loops"]}
    assert set(loops) == {(steps, interval) for steps in (3, 20) for interval in (1, 2, 5)}
    for (steps, interval), loop in loops.items():
        assert set(loop) == LOOP_KEYS
        assert loop["full_steps"] == len(range(0, steps, interval))
        assert loop["full_steps"] + loop["cached_steps"] == steps
        assert loop["seconds"] > 0
        assert loop["speedup"] == pytest.approx(loops[steps, 1]["seconds"] / loop["seconds"])
        assert loop["efficiency"] == pytest.approx(loop["speedup"] / interval)
    assert loops[3, 5]["published_seconds"] is None
    assert loops[20, 5]["published_seconds"] == PUBLISHED_SECONDS[20][5]
    assert loops[20, 5]["published_speedup"] == pytest.approx(9.8 / 2.4)


def test_the_table_stands_beside_the_published_one(table1):
    done = table1("--steps", "20", "--intervals", "10")
    assert done.code == 0
    [row] = [line.split() for line in done.out.splitlines() if line.split()[:2] == ["20", "10"]]
    assert row[2:5] == ["2", "+", "18"]
    assert row[-3:] == ["1.7", "s", "5.76"]


def test_a_wrong_answer_is_not_timed(table1, monkeypatch):
    monkeypatch.setattr(unet, "LARGEST_ERROR", 0.0)
    done = table1("--steps", "2")
    assert done.code == 1
    assert "no time was taken" in done.err


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--steps", "0"), "--steps"),
        (("--steps", "20,x"), "--steps"),
        (("--intervals", "0"), "--intervals"),
        (("--repeats", 0), "--repeats"),
        (("--guidance", "nan"), "--guidance"),
    ],
)
def test_bad_options_are_refused(table1, options, where):
    done = table1(*options)
    assert done.code == 2
    assert where in done.err
