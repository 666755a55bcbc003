"""The tuning of many workloads: what to try, whom to believe, and what to keep.

Every trial is a line of ``trials.jsonl`` when it is over, and every win one of ``records.jsonl``, so that
tuning may be stopped at any moment and goes on where it was. A win is believed when it shows twice: against
the best so far, and in a longer run against the defaults.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ddimcache import __version__
from ddimcache.compiler.target import Decisions, DeviceProfile
from ddimcache.kernels.workload import Workload
from ddimcache.records import RecordProblem, from_json
from ddimcache.runtime.progress import Progress
from ddimcache.schedules import tuning_records as store
from ddimcache.schedules.spaces import VERSIONS, problem
from ddimcache.tuning.cost_model import CostModel
from ddimcache.tuning.explorer import Explorer, key_of
from ddimcache.tuning.outcome import Outcome, Trial

TRIALS = "trials.jsonl"
BATCH = 8
"""Trials between two looks at what was learned."""

GAIN = 0.97
"""A candidate has to be this much faster than the defaults to be worth a record."""

CONFIRMING_REPEATS = 21
TOOL = f"ddimcache {__version__}"


class Runs(Protocol):
    """What runs a trial (:class:`ddimcache.tuning.runner.Runner`)."""

    def run(self, workload: Workload, decisions: Decisions, rival: Decisions, repeats: int = 5) -> Outcome:
        """The outcome of ``decisions`` in turns with those of ``rival``."""


@dataclass(frozen=True)
class Task:
    """A workload to tune and how often it is computed, where that is known: the others come first."""

    workload: Workload
    calls: int = 1


@dataclass
class Result:
    """What came of a workload: trials by status, the best decisions and their time over the default's."""

    workload: Workload
    statuses: dict[str, int] = field(default_factory=dict)
    best: dict[str, int] = field(default_factory=dict)
    ratio: float = 1.0
    seconds: float | None = None
    kept: bool = False
    """Whether a record was written."""

    @property
    def trials(self) -> int:
        """How many candidates were tried, in this and in earlier runs."""
        return sum(self.statuses.values())


class Tuner:
    """Tunes workloads on ``device`` with ``runner`` and keeps what it finds in ``folder``.

    ``method`` is what times are: ``measured``, or ``modelled``, which is not repeated to be believed.
    """

    def __init__(
        self,
        folder: Path,
        device: DeviceProfile,
        runner: Runs,
        *,
        method: store.Method = "measured",
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.device, self.runner = folder, device, runner
        self.method, self.seed, self.clock = method, seed, clock
        self._models: dict[str, CostModel] = {}
        self.skipped: list[str] = []
        self._trials = self._read_trials()
        log = store.read_log(folder, device)
        self.skipped += log.skipped
        self._records = log.records

    def tune(
        self,
        tasks: Iterable[Task],
        trials: int,
        progress: Progress,
        *,
        seconds: float = math.inf,
        done: Callable[[Result], object] = lambda _: None,
    ) -> list[Result]:
        """Tunes each task with up to ``trials`` trials, those of earlier runs included.

        Tasks that take longest come first; none is begun after ``seconds``, and a batch that runs then is
        the last. ``done`` is told every result.
        """
        end = self.clock() + seconds
        ordered = sorted(tasks, key=lambda task: -task.workload.macs * task.calls)
        left = sum(max(0, trials - self._made(task.workload)) for task in ordered)
        results = []
        with progress.stage("tune", total=left) as stage:
            for task in ordered:
                result = self._tune_one(task.workload, trials, end, stage.advance)
                results.append(result)
                done(result)
        return results

    def _tune_one(
        self, workload: Workload, trials: int, end: float, advance: Callable[[int, str], object]
    ) -> Result:
        explorer = Explorer(self.device.tiles, workload, self.seed)
        model = self._models.setdefault(workload.family, CostModel(workload.family))
        result = Result(workload)
        ratios = {key_of(explorer.default): 1.0}
        best: dict[str, int] = {}
        if (record := self._records.get(workload)) is not None and record.method == self.method:
            best = dict(record.decisions)
            ratios[key_of({**explorer.default, **best})] = record.ratio
            result.best, result.seconds, result.kept = best, record.seconds, True
            result.ratio = record.ratio

        def learn(
            decisions: Decisions, rival: Decisions, outcome: Outcome, confirms: bool = False
        ) -> float | None:
            """What a trial says of the time over the default's, through the rival's."""
            whole = {**explorer.default, **decisions}
            ratio = outcome.ratio
            if ratio is not None:
                ratio *= ratios.get(key_of({**explorer.default, **rival}), 1.0)
                ratios[key_of(whole)] = ratio
            explorer.told(decisions, ratio)
            model.add(workload, whole, ratio)
            if not confirms:
                result.statuses[outcome.status] = result.statuses.get(outcome.status, 0) + 1
            return ratio

        for trial in self._trials.get(workload, ()):
            learn(trial.decisions, trial.rival, trial.outcome, trial.confirms)
        while result.trials < trials and self.clock() < end:
            rank = (lambda found: model.predict(workload, found)) if model.ready else None
            batch = explorer.propose(min(BATCH, trials - result.trials), rank)
            if not batch:
                break
            for decisions in batch:
                if self.clock() >= end:
                    break
                outcome = self.runner.run(workload, decisions, best)
                self._keep_trial(workload, decisions, best, outcome)
                ratio = learn(decisions, best, outcome)
                if ratio is not None and ratio < min(result.ratio, 1.0):
                    outcome = self.runner.run(workload, decisions, {}, CONFIRMING_REPEATS)
                    self._keep_trial(workload, decisions, {}, outcome, confirms=True)
                    learn(decisions, {}, outcome, confirms=True)
                    if self._is_win(result, decisions, outcome):
                        best = result.best
                advance(1, f"{workload.text}: {result.ratio:.3f} of the default's time")
        return result

    def _made(self, workload: Workload) -> int:
        return sum(not trial.confirms for trial in self._trials.get(workload, ()))

    def _is_win(self, result: Result, decisions: Decisions, outcome: Outcome) -> bool:
        """Whether ``decisions`` beat the defaults, and by more than what was found before; then a record."""
        ratio = outcome.ratio
        if ratio is None or ratio > GAIN or ratio >= result.ratio:
            return False
        assert outcome.seconds is not None
        assert outcome.rival_seconds is not None
        result.best, result.ratio, result.seconds, result.kept = dict(decisions), ratio, outcome.seconds, True
        workload = result.workload
        record = store.TuningRecord(
            workload.family,
            workload.sizes,
            workload.dtype,
            workload.weights,
            self.device.name,
            dict(decisions),
            outcome.seconds,
            outcome.rival_seconds,
            outcome.error,
            self.method,
            VERSIONS[workload.family],
            TOOL,
        )
        store.append(self.folder / store.RECORDS, record)
        self._records[workload] = record
        return True

    def _keep_trial(
        self,
        workload: Workload,
        decisions: Decisions,
        rival: Decisions,
        outcome: Outcome,
        *,
        confirms: bool = False,
    ) -> None:
        trial = Trial(
            workload.family,
            workload.sizes,
            workload.dtype,
            workload.weights,
            self.device.name,
            self.method,
            VERSIONS[workload.family],
            dict(decisions),
            dict(rival),
            outcome,
            TOOL,
            confirms,
        )
        store.append(self.folder / TRIALS, trial)

    def _read_trials(self) -> dict[Workload, list[Trial]]:
        """The trials of earlier runs that say something about this device and these families."""
        found: dict[Workload, list[Trial]] = {}
        path = self.folder / TRIALS
        for number, line in enumerate(store.lines_of(path), 1):
            try:
                trial = from_json(Trial, store.read_line(line))
                if (reason := self._stale(trial)) is not None:
                    raise RecordProblem("", reason)
            except (RecordProblem, UnicodeDecodeError) as error:
                self.skipped.append(f"{path}, line {number} is skipped: {error}"[:400])
                continue
            found.setdefault(trial.workload, []).append(trial)
        return found

    def _stale(self, trial: Trial) -> str | None:
        if (trial.device, trial.method) != (self.device.name, self.method):
            return f"{trial.method} on {trial.device}, not {self.method} on {self.device.name}"
        if (reason := trial.workload.problem()) is not None:
            return reason
        if trial.version != VERSIONS[trial.op]:
            return f"stale: of version {trial.version} of {trial.op}, now {VERSIONS[trial.op]}"
        for decisions in (trial.decisions, trial.rival):
            if (reason := problem(self.device.tiles, trial.workload, decisions)) is not None:
                return f"stale: {reason}"
        return None


def tasks_of(workloads: Sequence[tuple[str, int]], families: Sequence[str]) -> list[Task]:
    """Tasks of texts with their numbers of calls, each workload once, of ``families``.

    Raises :class:`ValueError` for a text that is no workload.
    """
    from ddimcache.kernels.workload import parse

    calls: dict[Workload, int] = {}
    for text, count in workloads:
        workload = parse(text)
        if workload.family in families:
            calls[workload] = calls.get(workload, 0) + count
    return [Task(workload, count) for workload, count in calls.items()]
