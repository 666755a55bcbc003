"""Runs the tuner's trials on devices behind RPC: a candidate is built here, and run over there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from ddimcache.compiler.target import Decisions
from ddimcache.kernels.workload import Workload
from ddimcache.runtime.trial import Outcome
from ddimcache.tuning.builder import Builder
from ddimcache.tuning.child import TOLERANCE
from ddimcache.tuning.child_process import CHILD
from ddimcache.tuning.far_devices import FarDevice, FarDevices
from ddimcache.tuning.far_trials import FarTrials, Pair, Question


class FarRunner:
    """Trials for ``target`` on ``devices``, as many at once as there are; see ``runner.py``.

    ``host`` is built for; without it, what each server says it is. ``origin_of`` says what the manifest calls
    a device. Used as a context: leaving it ends what is being built, but gives no device back.
    """

    def __init__(
        self,
        target: str,
        devices: FarDevices,
        *,
        host: str | None = None,
        seconds: float = 60,
        memory: int = 0,
        command: Sequence[str] = CHILD,
        origin_of: Callable[[FarDevice], str] = lambda _: "",
    ) -> None:
        self.target, self.devices = target, devices
        self.trials = FarTrials(devices, host=host, seconds=seconds, memory=memory, origin_of=origin_of)
        self._command = command

    @property
    def width(self) -> int:
        """How many trials may be at work at once: one on each device, and one that is being built."""
        return self.devices.width + 1

    def __enter__(self) -> FarRunner:
        self._folder = tempfile.TemporaryDirectory(prefix="ddimcache-tune-")
        self.builder = Builder(
            self.target,
            Path(self._folder.name),
            seconds=self.trials.seconds,
            memory=self.trials.memory,
            kept=max(8, 4 * self.width),
            command=self._command,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.builder.end()
        self._folder.cleanup()

    def abort(self) -> None:
        """Ends the trials that run; they raise."""
        self.builder.end()
        self.devices.close()

    def run(self, workload: Workload, decisions: Decisions, rival: Decisions, repeats: int = 5) -> Outcome:
        """The outcome of ``decisions`` in turns with those of ``rival``; from any thread.

        Raises :class:`RemoteError` when no device is left.
        """

        def build(host: str) -> Pair | Outcome:
            candidate = self.builder.build(workload, decisions, host)
            if isinstance(candidate, Outcome):
                return candidate
            other = self.builder.build(workload, rival, host)
            if isinstance(other, Outcome):
                return Outcome("failed", message=f"its rival was not built: {other.message}"[:500])
            return candidate, other

        return self.trials.run(build, self.question(workload, repeats))

    def question(self, workload: Workload, repeats: int) -> Question:
        """What the results of kernels of ``workload`` have to be."""
        right, path = self.builder.expected(workload)
        return Question(right, path, workload.stored, TOLERANCE[workload.dtype], repeats)
