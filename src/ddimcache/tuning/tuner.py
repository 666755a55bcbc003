"""The tuning of many workloads: what to try, whom to believe, and what to keep.

Every trial is a line of ``trials.jsonl`` when it is over, and every win one of ``records.jsonl``, so that
tuning may be stopped at any moment and goes on where it was. A win is believed when it shows twice: against
the best so far, and in a longer run against the defaults.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from ddimcache import __version__
from ddimcache.compiler.target import Decisions, DeviceProfile
from ddimcache.kernels.workload import Workload
from ddimcache.records import RecordProblem, from_json
from ddimcache.runtime.progress import Progress
from ddimcache.runtime.trial import Outcome
from ddimcache.schedules import tuning_records as store
from ddimcache.schedules.spaces import VERSIONS, problem
from ddimcache.tuning.cost_model import CostModel
from ddimcache.tuning.explorer import Explorer, key_of
from ddimcache.tuning.outcome import Trial

TRIALS = "trials.jsonl"
BATCH = 8
"""Trials between two looks at what was learned."""

GAIN = 0.97
"""A candidate has to be this much faster than the defaults to be worth a record."""

CONFIRMING_REPEATS = 21
_ELSEWHERE = 2
"""Of a batch, at most: what won for other workloads of the family."""

TOOL = f"ddimcache {__version__}"


class Runs(Protocol):
    """What runs trials (``runner.py`` here, ``far_runner.py`` behind RPC).

    Where its ``width`` is above 1, :meth:`run` is called from as many threads.
    """

    @property
    def width(self) -> int:
        """How many trials may be at work at once."""

    def abort(self) -> None:
        """Ends the trials that run, whatever they come to."""

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
    trace: str = ""
    """Of MetaSchedule's search: where its best trace is, whose time the others are then."""

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
        self.models: dict[str, CostModel] = {}
        self.is_stopped = False
        self.skipped: list[str] = []
        self.trials = self._read_trials()
        log = store.read_log(folder, device, method)
        self.skipped += log.skipped
        self.records = log.records
        others = {} if method == "modelled" else store.read_log(folder, device, "modelled").records
        self.modelled = {workload: record.decisions for workload, record in others.items()}

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
        search = _Search(self, workload)
        result = search.result
        while result.trials < trials and self.clock() < end:
            size = max(BATCH, 2 * self.runner.width)
            batch = search.propose(min(size, trials - result.trials))
            if not batch:
                break
            self._run_all([partial(search.attempt, decisions, end, advance) for decisions in batch])
        search.settle()
        return result

    def _run_all(self, attempts: Sequence[Callable[[], None]]) -> None:
        """Runs every attempt, as many at once as the runner takes; the first error ends them all."""
        if self.runner.width == 1:
            for attempt in attempts:
                attempt()
            return
        with ThreadPoolExecutor(self.runner.width) as threads:
            running = [threads.submit(attempt) for attempt in attempts]
            try:
                for future in as_completed(running):
                    future.result()
            except BaseException:
                self.is_stopped = True
                threads.shutdown(wait=False, cancel_futures=True)
                self.runner.abort()
                raise

    def _made(self, workload: Workload) -> int:
        return sum(not trial.confirms for trial in self.trials.get(workload, ()))

    def keep_record(
        self, workload: Workload, decisions: Decisions, outcome: Outcome, seconds: tuple[float, float]
    ) -> None:
        """Keeps ``decisions``, which ran as ``outcome`` says: ``seconds`` are theirs and the defaults'."""
        record = store.TuningRecord(
            workload.family,
            workload.sizes,
            workload.dtype,
            workload.weights,
            self.device.name,
            dict(decisions),
            *seconds,
            outcome.error,
            self.method,
            VERSIONS[workload.family],
            TOOL,
            outcome.origin,
        )
        store.append(self.folder / store.RECORDS, record)
        self.records[workload] = record

    def keep_trial(
        self,
        workload: Workload,
        decisions: Decisions,
        rival: Decisions,
        outcome: Outcome,
        *,
        confirms: bool = False,
    ) -> None:
        """Keeps that ``decisions`` came to ``outcome`` in turns with those of ``rival``."""
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
                if trial.device == self.device.name and trial.method != self.method:
                    continue
                if (reason := self._stale(trial)) is not None:
                    raise RecordProblem("", reason)
            except (RecordProblem, UnicodeDecodeError) as error:
                self.skipped.append(f"{path}, line {number} is skipped: {error}"[:400])
                continue
            found.setdefault(trial.workload, []).append(trial)
        return found

    def _stale(self, trial: Trial) -> str | None:
        if trial.device != self.device.name:
            return f"on {trial.device}, not on {self.device.name}"
        if (reason := trial.workload.problem()) is not None:
            return reason
        if trial.version != VERSIONS[trial.op]:
            return f"stale: of version {trial.version} of {trial.op}, now {VERSIONS[trial.op]}"
        for decisions in (trial.decisions, trial.rival):
            if (reason := problem(self.device.tiles, trial.workload, decisions)) is not None:
                return f"stale: {reason}"
        return None


class _Search:
    """The search for one workload of ``tuner``; :meth:`attempt` may be called from several threads."""

    def __init__(self, tuner: Tuner, workload: Workload) -> None:
        self._tuner, self._workload = tuner, workload
        self._explorer = Explorer(tuner.device.tiles, workload, tuner.seed)
        self._model = tuner.models.setdefault(workload.family, CostModel(workload.family))
        self._lock = threading.Lock()
        self.result = Result(workload)
        self._ratios = {key_of(self._explorer.default): 1.0}
        record = tuner.records.get(workload)
        if record is not None and record.decisions:
            self._ratios[key_of(self._whole(record.decisions))] = record.ratio
            result = self.result
            result.best, result.seconds, result.kept = dict(record.decisions), record.seconds, True
            result.ratio = record.ratio
        for trial in tuner.trials.get(workload, ()):
            self._learn(trial.decisions, trial.rival, trial.outcome, trial.confirms)

    def propose(self, count: int) -> list[dict[str, int]]:
        """At most ``count`` new candidates; what a model found, and what won for its like, come first."""
        modelled = self._tuner.modelled.get(self._workload)
        is_open = (
            modelled and self._workload not in self._tuner.records and not self._explorer.knows(modelled)
        )
        first = [dict(modelled)] if modelled and is_open else []
        first += [made for made in self._won_elsewhere() if made not in first]
        model = self._model
        rank = (lambda found: model.predict(self._workload, found)) if model.ready else None
        rest = self._explorer.propose(count, rank)
        return [*first, *(made for made in rest if made not in first)][:count]

    def _won_elsewhere(self) -> list[dict[str, int]]:
        """What won for the workloads of the family that are nearest in size, as far as it is new here."""

        def distance(other: Workload) -> float:
            pairs = zip(other.sizes, self._workload.sizes, strict=True)
            return sum(abs(math.log2(theirs / ours)) for theirs, ours in pairs)

        kind = (self._workload.family, self._workload.dtype)
        others = [
            other
            for other, record in self._tuner.records.items()
            if (other.family, other.dtype) == kind and other != self._workload and record.decisions
        ]
        won = [dict(self._tuner.records[other].decisions) for other in sorted(others, key=distance)]
        return [made for made in won if not self._explorer.knows(made)][:_ELSEWHERE]

    def attempt(self, decisions: Decisions, end: float, advance: Callable[[int, str], object]) -> None:
        """Tries a candidate, and once more for longer where it is the best so far; nothing after ``end``."""
        tuner, workload, result = self._tuner, self._workload, self.result
        if tuner.is_stopped or tuner.clock() >= end:
            return
        rival = result.best
        outcome = tuner.runner.run(workload, decisions, rival)
        if tuner.is_stopped:
            return
        with self._lock:
            tuner.keep_trial(workload, decisions, rival, outcome)
            ratio = self._learn(decisions, rival, outcome)
            is_better = ratio is not None and ratio < min(result.ratio, 1.0)
        if is_better:
            outcome = tuner.runner.run(workload, decisions, {}, CONFIRMING_REPEATS)
            if tuner.is_stopped:
                return
            with self._lock:
                tuner.keep_trial(workload, decisions, {}, outcome, confirms=True)
                self._learn(decisions, {}, outcome, confirms=True)
                self._take(decisions, outcome)
        with self._lock:
            advance(1, f"{workload.text}: {result.ratio:.3f} of the default's time")

    def settle(self) -> None:
        """Keeps that the defaults are best, where a model thinks of others that did not win when measured."""
        modelled = self._tuner.modelled.get(self._workload)
        if not modelled or self._workload in self._tuner.records or not self._explorer.knows(modelled):
            return
        outcome = self._tuner.runner.run(self._workload, {}, {})
        if outcome.rival_seconds is not None:
            self._tuner.keep_record(self._workload, {}, outcome, (outcome.rival_seconds,) * 2)

    def _whole(self, decisions: Decisions) -> dict[str, int]:
        return {**self._explorer.default, **decisions}

    def _learn(
        self, decisions: Decisions, rival: Decisions, outcome: Outcome, confirms: bool = False
    ) -> float | None:
        """What a trial says of the time over the default's, through the rival's."""
        whole, ratio = self._whole(decisions), outcome.ratio
        if ratio is not None:
            ratio *= self._ratios.get(key_of(self._whole(rival)), 1.0)
            self._ratios[key_of(whole)] = ratio
        self._explorer.told(decisions, ratio)
        self._model.add(self._workload, whole, ratio)
        if not confirms:
            statuses = self.result.statuses
            statuses[outcome.status] = statuses.get(outcome.status, 0) + 1
        return ratio

    def _take(self, decisions: Decisions, outcome: Outcome) -> None:
        """Makes ``decisions`` the best where they beat the defaults, by more than what was found before."""
        ratio, result = outcome.ratio, self.result
        if ratio is None or ratio > GAIN or ratio >= result.ratio:
            return
        assert outcome.seconds is not None
        assert outcome.rival_seconds is not None
        result.best, result.ratio, result.seconds, result.kept = dict(decisions), ratio, outcome.seconds, True
        self._tuner.keep_record(self._workload, decisions, outcome, (outcome.seconds, outcome.rival_seconds))


def tasks_of(workloads: Sequence[tuple[str, int]], families: Sequence[str]) -> list[Task]:
    """Tasks of texts with their numbers of calls, each workload once, of ``families``.

    Raises :class:`ValueError` for a text that is no workload.
    """
    from ddimcache.kernels.workload import parse

    calls: dict[Workload, int] = {}
    for text, count in workloads:
        workload = parse(text)
        if (reason := workload.too_large()) is not None:
            raise ValueError(reason)
        if workload.family in families:
            calls[workload] = calls.get(workload, 0) + count
    return [Task(workload, count) for workload, count in calls.items()]
