"""The search finds what is better, believes nothing at once, and goes on where it was stopped."""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ddimcache.compiler.target import Decisions, profile
from ddimcache.errors import RemoteError
from ddimcache.kernels.workload import Workload, parse
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.trial import Outcome
from ddimcache.schedules import tuning_records as store
from ddimcache.schedules.spaces import defaults, problem, space_of
from ddimcache.tuning.cost_model import LEAST_SAMPLES, CostModel
from ddimcache.tuning.explorer import Explorer, key_of
from ddimcache.tuning.tuner import TRIALS, Result, Task, Tuner
from tests.kit.tuning import record, write_folder

PRODUCT = parse("matmul 4096x320x320 float32 int8")
TILES = profile("opencl").tiles
BEST = {"blocks.rows": 64, "blocks.strip": 10, "columns": 16}
"""What the made-up device likes."""


def seconds(workload: Workload, decisions: Decisions) -> float:
    """The made-up device: a unit for each step away from what it likes, by logarithms."""
    space = space_of(TILES, workload)
    whole = {**defaults(TILES, workload, space), **decisions}
    return 1 + sum(abs(math.log2(whole[place] / liked)) for place, liked in BEST.items())


class Device:
    """Runs trials without a device; ``outcomes`` replaces what the first ones come to."""

    width = 1

    def __init__(self, outcomes: list[Outcome] | None = None) -> None:
        self.asked: list[tuple[dict[str, int], dict[str, int], int]] = []
        self.outcomes = outcomes or []

    def run(self, workload: Workload, decisions: Decisions, rival: Decisions, repeats: int = 5) -> Outcome:
        self.asked.append((dict(decisions), dict(rival), repeats))
        if self.outcomes:
            return self.outcomes.pop(0)
        return Outcome("good", seconds(workload, decisions), seconds(workload, rival), 1e-6)

    def abort(self) -> None:
        """Nothing runs."""


def tune(folder: Path, device: Device, trials: int, **options: float) -> Result:
    tuner = Tuner(folder, profile("opencl"), device)
    [result] = tuner.tune([Task(PRODUCT)], trials, SilentProgress(), **options)
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "log", "opencl", [])


def test_it_finds_much_of_what_there_is_and_keeps_it(folder: Path) -> None:
    device = Device()
    result = tune(folder, device, 96)
    least = 1 / seconds(PRODUCT, {})
    assert result.trials == 96
    assert least <= result.ratio <= least * 1.6
    [kept] = store.read_log(folder, profile("opencl")).records.values()
    assert kept.decisions == result.best
    assert kept.seconds == seconds(PRODUCT, result.best)
    assert kept.default_seconds == seconds(PRODUCT, {})
    # Nothing was tried twice, but for the longer runs against the defaults that a win needs.
    tried = [key_of(decisions) for decisions, _, repeats in device.asked if repeats == 5]
    assert len(set(tried)) == 96


def test_the_same_is_found_without_a_stop_and_with_many(tmp_path: Path) -> None:
    whole, parts = (write_folder(tmp_path / name, "opencl", []) for name in ("whole", "parts"))
    tune(whole, Device(), 40)
    asked = 0
    for trials in (7, 8, 24, 40):
        device = Device()
        result = tune(parts, device, trials)
        asked += sum(repeats == 5 for *_, repeats in device.asked)
        assert result.trials == trials
    assert asked == 40
    kept = [json.loads(line)["confirms"] for line in (parts / TRIALS).read_text().splitlines()]
    assert kept.count(False) == 40
    assert tune(parts, Device([Outcome("crashed")]), 40).trials == 40


@pytest.mark.parametrize("status", ["wrong", "refused", "failed", "crashed", "hung", "memory"])
def test_failures_are_results_and_not_ends(folder: Path, status: str) -> None:
    result = tune(folder, Device([Outcome(status, message="so it was")] * 9), 24)  # type: ignore[arg-type]
    assert result.statuses == {status: 9, "good": 15}
    lines = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    kept = [line["outcome"] for line in lines if not line["confirms"]]
    assert [outcome["message"] for outcome in kept[:9]] == ["so it was"] * 9


def test_a_win_that_does_not_show_again_is_no_record(folder: Path) -> None:
    lucky = Outcome("good", 0.1, 1.0, 1e-6)
    result = tune(folder, Device([lucky, Outcome("good", 1.0, 1.0, 1e-6), *[Outcome("crashed")] * 7]), 8)
    assert not result.kept
    assert not (folder / store.RECORDS).exists()


def test_a_record_of_before_is_the_rival(folder: Path) -> None:
    store.append(folder / store.RECORDS, record(PRODUCT, BEST, "opencl", seconds=0.4, default_seconds=1.0))
    device = Device()
    result = tune(folder, device, 8)
    assert all(rival == BEST for _, rival, repeats in device.asked if repeats == 5)
    assert (result.best, result.kept) == (BEST, True)


def test_nothing_begins_after_the_time(folder: Path) -> None:
    ticks = itertools.count()
    device = Device()
    tuner = Tuner(folder, profile("opencl"), device, clock=lambda: float(next(ticks)))
    [result] = tuner.tune([Task(PRODUCT)], 1000, SilentProgress(), seconds=20)
    assert 0 < result.trials <= 20


def test_damaged_and_stale_trials_are_skipped(folder: Path) -> None:
    tune(folder, Device([Outcome("failed")] * 3), 3)
    good = (folder / TRIALS).read_text().splitlines()
    stale = {**json.loads(good[0]), "version": 99}
    bad = {**json.loads(good[0]), "decisions": {"blocks.rows": -1}}
    lines = [good[0], "{", json.dumps(stale), json.dumps(bad), '"\\ud800"', good[1], good[2][:40]]
    (folder / TRIALS).write_text("\n".join(lines))
    tuner = Tuner(folder, profile("opencl"), Device())
    assert len(tuner.skipped) == 5
    [result] = tuner.tune([Task(PRODUCT)], 4, SilentProgress())
    assert result.trials == 4
    again = Tuner(folder, profile("opencl"), Device())
    assert len(again.skipped) == 5


def test_a_killed_tuner_goes_on(folder: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom tests.tuning.test_tuner import *\n"
        "class Killed(Device):\n"
        "    def run(self, *arguments, **options):\n"
        "        if len(self.asked) == 11: os.kill(os.getpid(), 9)\n"
        "        return super().run(*arguments, **options)\n"
        "tune(Path(sys.argv[1]), Killed(), 32)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == -signal.SIGKILL
    lines = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    assert len(lines) == 11
    before = sum(not line["confirms"] for line in lines)
    device = Device()
    tuner = Tuner(folder, profile("opencl"), device)
    assert tuner.skipped == []
    [result] = tuner.tune([Task(PRODUCT)], 32, SilentProgress())
    assert result.trials == 32
    assert sum(repeats == 5 for *_, repeats in device.asked) == 32 - before


def test_the_longest_work_comes_first(folder: Path) -> None:
    small, often = parse("matmul 64x320x320 float32 int8"), parse("matmul 1024x320x320 float32 int8")
    tuner = Tuner(folder, profile("opencl"), Device())
    tasks = [Task(small, 2), Task(PRODUCT, 1), Task(often, 100)]
    results = tuner.tune(tasks, 1, SilentProgress())
    assert [result.workload for result in results] == [often, PRODUCT, small]


class Several(Device):
    """Three devices, on which a trial takes a moment; the twentieth may break."""

    width = 3

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error, self.at_once, self.most, self.is_aborted = error, 0, 0, False
        self.lock = threading.Lock()

    def run(self, workload: Workload, decisions: Decisions, rival: Decisions, repeats: int = 5) -> Outcome:
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(0.005)
        with self.lock:
            self.at_once -= 1
            if self.error is not None and len(self.asked) == 20:
                raise self.error
            return super().run(workload, decisions, rival, repeats)

    def abort(self) -> None:
        self.is_aborted = True


def test_several_devices_share_a_search(folder: Path) -> None:
    device = Several()
    result = tune(folder, device, 60)
    assert (result.trials, device.most) == (60, 3)
    assert result.ratio <= 1 / seconds(PRODUCT, {}) * 2
    tried = [key_of(decisions) for decisions, _, repeats in device.asked if repeats == 5]
    assert len(set(tried)) == len(tried) == 60


@pytest.mark.parametrize("error", [RemoteError("no device is left"), KeyboardInterrupt()])
def test_an_error_of_one_ends_all_and_keeps_what_was_tried(folder: Path, error: BaseException) -> None:
    device = Several(error)
    with pytest.raises(type(error)):
        tune(folder, device, 60)
    assert device.is_aborted
    assert 15 <= len((folder / TRIALS).read_text().splitlines()) <= 22
    assert tune(folder, Several(), 60).trials == 60


def test_what_won_for_its_like_is_tried_first(folder: Path) -> None:
    near, far, other = (
        parse(f"matmul {sizes} float32 int8") for sizes in ("2048x320x320", "64x320x320", "4096x320x322")
    )
    for number, workload in enumerate([far, near, other]):
        won = {"blocks.rows": (32, 64, 7)[number]}
        store.append(folder / store.RECORDS, record(workload, won, "opencl"))
    device = Device()
    tune(folder, device, 8)
    firsts = [decisions for decisions, _, repeats in device.asked if repeats == 5][:2]
    assert firsts == [{"blocks.rows": 64}, {"blocks.rows": 32}]


def modelled(folder: Path) -> None:
    entry = record(PRODUCT, BEST, "opencl", method="modelled", error=None, seconds=0.1, default_seconds=1.0)
    store.append(folder / store.RECORDS, entry)


def kept(folder: Path) -> store.TuningRecord:
    return store.read_log(folder, profile("opencl")).records[PRODUCT]


def test_what_a_model_found_is_measured_first(folder: Path) -> None:
    modelled(folder)
    assert kept(folder).method == "modelled"
    device = Device()
    result = tune(folder, device, 8)
    assert device.asked[0][:2] == (BEST, {})
    assert (result.best, kept(folder).method, kept(folder).decisions) == (BEST, "measured", BEST)
    # A model that thinks otherwise later does not replace it.
    modelled(folder)
    assert kept(folder).method == "measured"


@pytest.mark.parametrize("outcome", [Outcome("good", 1.0, 1.0, 1e-6), Outcome("crashed")])
def test_what_a_model_found_and_no_measurement_confirms_is_not_used(folder: Path, outcome: Outcome) -> None:
    modelled(folder)
    device = Device([outcome, *[Outcome("failed")] * 7, Outcome("good", 2.0, 2.0, 1e-6, origin="there")])
    assert not tune(folder, device, 8).kept
    found = kept(folder)
    assert (found.method, found.decisions, found.seconds, found.origin) == ("measured", {}, 2.0, "there")
    device = Device()
    assert tune(folder, device, 8).trials == 8
    assert device.asked == []


@pytest.mark.parametrize("text", ["matmul 1x8x4 float32 int8", "attention 1x4096x4096x8x40 float32 none"])
def test_proposals_are_valid_new_and_end(text: str) -> None:
    explorer, seen = Explorer(TILES, parse(text)), set()
    for _ in range(60):
        batch = explorer.propose(8, None)
        for decisions in batch:
            assert problem(TILES, explorer.workload, decisions) is None
            assert key_of(decisions) not in seen
            seen.add(key_of(decisions))
            explorer.told(decisions, None if len(seen) % 5 else 0.9)
        if not batch:
            break
    assert key_of(explorer.default) not in seen
    size = math.prod(len(numbers) for numbers in explorer.space.values())
    assert len(seen) == min(size - 1, 480)


def test_the_model_ranks_what_it_has_not_seen() -> None:
    random, model, explorer = np.random.default_rng(0), CostModel("matmul"), Explorer(TILES, PRODUCT)
    other = parse("matmul 1024x640x640 float32 int8")
    pool = explorer.propose(200, None)
    for decisions in pool[:120]:
        ratio = seconds(PRODUCT, decisions) / seconds(PRODUCT, {})
        model.add(PRODUCT, decisions, float(ratio * random.normal(1, 0.03)))
    assert model.ready
    rest = pool[120:]
    for workload in (PRODUCT, other):
        predicted = model.predict(workload, rest)
        true = np.array([seconds(PRODUCT, decisions) for decisions in rest])
        ranks = np.argsort(np.argsort(predicted)), np.argsort(np.argsort(true))
        assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_the_model_is_not_asked_before_it_knows_anything() -> None:
    model = CostModel("matmul")
    for _ in range(LEAST_SAMPLES - 1):
        model.add(PRODUCT, BEST, None)
    assert not model.ready
