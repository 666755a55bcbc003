"""MetaSchedule's own search goes through our trials: what fails is a result, what wins is measured again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tvm

from ddimcache.compiler.target import profile
from ddimcache.errors import RemoteError, UsageError
from ddimcache.kernels.workload import parse
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc_trials import TrialKernel
from ddimcache.runtime.trial import Outcome
from ddimcache.tuning.builder import Built
from ddimcache.tuning.metaschedule import import_records
from ddimcache.tuning.metaschedule_search import FOLDER, MetaScheduleSearch
from ddimcache.tuning.tuner import CONFIRMING_REPEATS, Task
from tests.kit.tuning import write_folder

PRODUCT = parse("matmul 32x32x32 float32 float32")
BUILT = Built(TrialKernel("0" * 64, (), (1,)), {})


class Fake:
    """A runner, its builder and its trials, which build nothing; trials come to ``outcomes``."""

    width = 1

    def __init__(self, outcomes: list[Outcome | BaseException]) -> None:
        self.outcomes, self.builder, self.trials = outcomes, self, self
        self.modules: list[tvm.IRModule] = []
        self.repeats: list[int] = []

    def abort(self) -> None:
        self.is_aborted = True

    def build(self, *_: object) -> Built:
        return BUILT

    def build_module(self, module: tvm.IRModule, like: TrialKernel, host: str) -> Built:
        assert (like, host) == (BUILT.kernel, "there")
        self.modules.append(module)
        return BUILT

    def question(self, workload: object, repeats: int) -> Any:
        return SimpleNamespace(repeats=repeats)

    def run(self, build: Any, question: Any) -> Outcome:
        assert isinstance(build("there"), tuple)
        self.repeats.append(question.repeats)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def good(seconds: float) -> Outcome:
    return Outcome("good", seconds, 1.0, 1e-6)


def search(folder: Path, fake: Fake, target: str = "llvm") -> Any:
    return MetaScheduleSearch(folder, profile(target), fake, population=8)  # type: ignore[arg-type]


@pytest.mark.full  # to parse its tensor intrinsics, MetaSchedule takes 15 s before it begins
@pytest.mark.parametrize("target", ["llvm", "opencl"])
def test_outcomes_are_results_and_the_best_is_measured_again(tmp_path: Path, target: str) -> None:
    fake = Fake([good(3.0), Outcome("wrong"), Outcome("crashed"), good(2.0), good(1.9)])
    [result] = search(tmp_path, fake, target).tune([Task(PRODUCT)], 4, SilentProgress())
    assert result.statuses == {"good": 2, "wrong": 1, "crashed": 1}
    assert fake.repeats == [5] * 4 + [CONFIRMING_REPEATS]
    assert (result.ratio, result.seconds, result.kept) == (1.9, 1.9, False)
    tvm.ir.assert_structural_equal(fake.modules[-1], fake.modules[3])
    assert "trace" in result.trace
    # It is a database of MetaSchedule's, of which nothing is a record of ours.
    write_folder(tmp_path, target, [])
    log = import_records(tmp_path / FOLDER, profile(target))
    assert (log.records, len(log.skipped)) == ({}, 4)


@pytest.mark.full
@pytest.mark.parametrize("error", [RemoteError("no device is left"), KeyboardInterrupt()])
def test_an_error_ends_it(tmp_path: Path, error: BaseException) -> None:
    fake = Fake([good(3.0), error])
    with pytest.raises(type(error)):
        search(tmp_path, fake).tune([Task(PRODUCT)], 4, SilentProgress())
    assert fake.is_aborted


@pytest.mark.full
def test_nothing_is_built_after_the_time(tmp_path: Path) -> None:
    fake = Fake([])
    [result] = search(tmp_path, fake).tune([Task(PRODUCT)], 4, SilentProgress(), seconds=-1)
    assert (result.trials, result.trace) == (0, "")


def test_a_kernel_without_loops_is_refused(tmp_path: Path) -> None:
    tasks = [Task(parse("attention 1x64x64x2x16 float32 none"))]
    with pytest.raises(UsageError, match="emitted whole"):
        search(tmp_path, Fake([])).tune(tasks, 4, SilentProgress())
