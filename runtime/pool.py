"""Many jobs on many devices: each device takes the next job, and none is lost when a device is.

A job is a function of a connected device that returns a JSON value. Its result is on the disk before the next
job of that device begins, so a run that is killed goes on where it stopped. A device is a server behind RPC:
one by its address, those of a tracker, or one of this machine, for which a server is started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ddimcache.errors import DdimcacheError, RemoteError
from ddimcache.records import JsonValue
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.pool_devices import DeviceSource
from ddimcache.runtime.progress import Progress, SilentProgress
from ddimcache.runtime.result_log import ResultLog
from ddimcache.runtime.rpc import RemoteDevice, RemoteSession

_SECONDS_TO_CONNECT = 20.0
_MOST_CONNECTS = 3
_MOST_FAILURES = 2
_MOST_LOSSES = 5
_LOOK_AGAIN_SECONDS = 5.0


class Worker:
    """A device as a job sees it."""

    def __init__(self, device: RemoteDevice) -> None:
        self.device = device
        """For calls of any kind; its ``info`` says what it is."""
        self._session: RemoteSession | None = None

    def session(self, bundle: Bundle) -> RemoteSession:
        """Return a session with the bundle, the one of the last job where that had the same bundle."""
        if self._session is None or self._session.bundle != bundle:
            self._session = None
            self._session = self.device.open(bundle, SilentProgress())
        return self._session


@dataclass(frozen=True)
class Job:
    """Work for one device. A result that is kept under the same ``identity`` counts as this job's."""

    identity: str
    work: Callable[[Worker], JsonValue]


@dataclass(frozen=True)
class FailedJob:
    """A job that was given up: what went wrong last, and on which devices."""

    identity: str
    problem: str
    devices: tuple[str, ...]


@dataclass
class PoolReport:
    """What a run has done: ``results`` by identity, also those of earlier runs."""

    results: dict[str, JsonValue] = field(default_factory=dict)
    failed: list[FailedJob] = field(default_factory=list)
    taken_over: int = 0
    """Jobs that an earlier run had done."""
    by_device: dict[str, int] = field(default_factory=dict)
    """How many jobs each device did."""
    lost: list[str] = field(default_factory=list)
    """A line for each device that broke off or hung."""


@dataclass(eq=False)
class _Attempts:
    job: Job
    failed_on: list[str] = field(default_factory=list)
    losses: int = 0
    problem: str = ""
    failed_at: float = 0.0


@dataclass(eq=False)
class _Running:
    device: RemoteDevice
    deadline: float
    timed_out: bool = False


class Pool:
    """Runs jobs on devices.

    Parameters
    ----------
    sources : where devices come from.
    seconds_per_job : after this time a device counts as hung: it is left, and the job goes elsewhere. None:
        no limit.
    """

    def __init__(self, sources: Sequence[DeviceSource], *, seconds_per_job: float | None = None) -> None:
        self._sources = sources
        self._seconds_per_job = seconds_per_job

    def run(
        self,
        jobs: Iterable[Job],
        log: ResultLog,
        progress: Progress,
        is_good: Callable[[JsonValue], bool] = lambda _: True,
    ) -> PoolReport:
        """Run every job that the log has no good result of, and return when all are done or given up.

        A job that fails on two devices, or twice on the only one, is given up and reported; so is one with
        which five devices were lost. After its first failure it waits a while for a device that is still
        being connected to. Raises :class:`RemoteError` when no device is left; what is done stays
        in the log.
        """
        return _Run(self._sources, self._seconds_per_job, log).run(list(jobs), progress, is_good)


class _Run:
    def __init__(
        self, sources: Sequence[DeviceSource], seconds_per_job: float | None, log: ResultLog
    ) -> None:
        self._sources = sources
        self._seconds_per_job = seconds_per_job
        self._log = log
        self._report = PoolReport()
        self._changed = threading.Condition()
        self._pending: list[_Attempts] = []
        self._running: dict[_Attempts, _Running] = {}
        self._present: dict[str, int] = {}
        self._connecting = 0
        self._is_over = False
        self._defect: BaseException | None = None
        self._threads: list[tuple[DeviceSource, threading.Thread]] = []
        self._last_problem = ""

    def run(self, jobs: list[Job], progress: Progress, is_good: Callable[[JsonValue], bool]) -> PoolReport:
        for job in jobs:
            if job.identity in self._log.results and is_good(self._log.results[job.identity]):
                self._report.results[job.identity] = self._log.results[job.identity]
            else:
                self._pending.append(_Attempts(job))
        self._report.taken_over = len(jobs) - len(self._pending)
        settled = self._settled()
        try:
            with progress.stage("jobs", len(jobs)) as stage:
                stage.advance(settled)
                looked_at = 0.0
                while (self._pending or self._running) and self._defect is None:
                    if time.monotonic() - looked_at > _LOOK_AGAIN_SECONDS:
                        looked_at = time.monotonic()
                        self._start_threads()
                    with self._changed:
                        self._changed.wait(0.2)
                    self._cut_what_hangs()
                    now_settled = self._settled()
                    if now_settled > settled:
                        devices = f"{len(self._present)} devices"
                        stage.advance(now_settled - settled, note=devices)
                        settled = now_settled
                    if not any(thread.is_alive() for _, thread in self._threads) and self._pending:
                        raise RemoteError(
                            f"{len(self._pending)} jobs are left and no device is: {self._last_problem}",
                            where="pool",
                            remedy="what is done is kept; run it again to go on",
                        )
        finally:
            self._finish()
        if self._defect is not None:
            raise self._defect
        return self._report

    def _settled(self) -> int:
        return len(self._report.results) + len(self._report.failed)

    def _start_threads(self) -> None:
        """Have a thread for each device that a source has, also for those that have come later."""
        for source in self._sources:
            mine = [thread for owner, thread in self._threads if owner is source]
            if mine and not source.grows:
                continue
            for _ in range(source.count() - sum(thread.is_alive() for thread in mine)):
                thread = threading.Thread(target=self._work, args=(source,), daemon=True)
                self._threads.append((source, thread))
                thread.start()

    def _finish(self) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            for running in self._running.values():
                running.device.abort()
        for _, thread in self._threads:
            thread.join(1.0)  # one that still waits for a device finds nothing to do with it
        for source in self._sources:
            source.close()

    def _work(self, source: DeviceSource) -> None:
        connects = 0
        try:
            while not self._is_over and (self._pending or self._running) and connects < _MOST_CONNECTS:
                with self._changed:
                    self._connecting += 1
                try:
                    device = source.connect(_SECONDS_TO_CONNECT)
                except DdimcacheError as error:
                    connects += 1
                    self._last_problem = str(error)
                    with self._changed:
                        self._connecting -= 1
                        self._changed.wait(connects)
                    continue
                connects = 0
                try:
                    self._use(device)
                finally:
                    device.close()
        except BaseException as error:  # a defect, or a log that cannot be written: the run ends with it
            self._defect = error
        with self._changed:
            self._changed.notify_all()

    def _use(self, device: RemoteDevice) -> None:
        """Do jobs on a device until none is left or the device is lost."""
        name, worker = str(device.address), Worker(device)
        with self._changed:
            self._connecting -= 1
            self._present[name] = self._present.get(name, 0) + 1
        try:
            while device.is_open and (attempts := self._take(name, device)) is not None:
                start = time.monotonic()
                try:
                    result = attempts.job.work(worker)
                except DdimcacheError as error:
                    self._note_problem(attempts, name, device, str(error))
                except Exception as error:  # a job is its caller's code: what it raises is its failure
                    self._note_problem(attempts, name, device, f"{type(error).__name__}: {error}")
                else:
                    self._note_result(attempts, name, result, time.monotonic() - start)
        finally:
            with self._changed:
                self._present[name] -= 1
                if not self._present[name]:
                    del self._present[name]
                self._changed.notify_all()

    def _take(self, name: str, device: RemoteDevice) -> _Attempts | None:
        """Wait for a job that this device may do; None when all are settled."""
        with self._changed:
            while not self._is_over and (self._pending or self._running):
                for attempts in self._pending:
                    if name not in attempts.failed_on or self._is_alone(name, attempts):
                        self._pending.remove(attempts)
                        limit = self._seconds_per_job
                        deadline = float("inf") if limit is None else time.monotonic() + limit
                        self._running[attempts] = _Running(device, deadline)
                        return attempts
                self._changed.wait(0.5)
        return None

    def _is_alone(self, name: str, attempts: _Attempts) -> bool:
        """Whether no other device is there for a job that has failed on this one, nor will soon be."""
        if not set(self._present) <= {name}:
            return False
        return not self._connecting or time.monotonic() - attempts.failed_at > _SECONDS_TO_CONNECT

    def _note_result(self, attempts: _Attempts, name: str, result: JsonValue, seconds: float) -> None:
        with self._changed:
            tries = 1 + len(attempts.failed_on) + attempts.losses
            about = {"device": name, "seconds": round(seconds, 3), "attempts": tries}
            self._log.append(attempts.job.identity, result, about)
            self._report.results[attempts.job.identity] = result
            self._report.by_device[name] = self._report.by_device.get(name, 0) + 1
            del self._running[attempts]
            self._changed.notify_all()

    def _note_problem(self, attempts: _Attempts, name: str, device: RemoteDevice, problem: str) -> None:
        with self._changed:
            running = self._running.pop(attempts)
            if self._is_over:
                return
            attempts.problem = problem
            if running.timed_out:
                attempts.problem = f"was not done in {self._seconds_per_job:g} s"
            if device.is_open or running.timed_out:
                attempts.failed_on.append(name)
                attempts.failed_at = time.monotonic()
            else:
                attempts.losses += 1
            if not device.is_open:
                self._report.lost.append(f"{name}: {attempts.problem}")
                self._last_problem = f"{name}: {attempts.problem}"
            if len(attempts.failed_on) >= _MOST_FAILURES or attempts.losses >= _MOST_LOSSES:
                devices = tuple(attempts.failed_on) or (name,)
                self._report.failed.append(FailedJob(attempts.job.identity, attempts.problem, devices))
                about: dict[str, Any] = {"devices": list(devices)}
                self._log.append_failure(attempts.job.identity, attempts.problem, about)
            else:
                self._pending.insert(0, attempts)
            self._changed.notify_all()

    def _cut_what_hangs(self) -> None:
        with self._changed:
            for running in self._running.values():
                if time.monotonic() > running.deadline and not running.timed_out:
                    running.timed_out = True
                    running.device.abort()
