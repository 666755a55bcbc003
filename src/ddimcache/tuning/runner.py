"""Runs trials on a device of this machine, each in a process of its own, and says what came of each."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ddimcache.compiler.target import Decisions
from ddimcache.kernels.workload import Workload
from ddimcache.runtime.trial import Outcome
from ddimcache.tuning.child_process import CHILD, ChildProcess
from ddimcache.tuning.outcome import Request


class Runner:
    """Trials of one workload after another on a local device, or in the Adreno lab (``place`` ``lab``).

    ``seconds`` and ``memory`` (bytes, 0 for any) limit a trial; ``command`` is what runs one; ``origin`` is
    what the manifest calls the device. Used as a context: leaving it ends a trial that runs and removes the
    files.
    """

    width = 1
    """How many trials may run at once."""

    def __init__(
        self,
        target: str,
        place: str,
        *,
        seconds: float = 60,
        memory: int = 0,
        command: Sequence[str] = CHILD,
        origin: str = "",
    ) -> None:
        self.target, self.place, self.memory, self.origin = target, place, memory, origin
        self.seconds, self.command = seconds, tuple(command)
        self._inputs: tuple[Workload, Path] | None = None

    def __enter__(self) -> Runner:
        self._folder = tempfile.TemporaryDirectory(prefix="ddimcache-tune-")
        self._path = Path(self._folder.name)
        self._child = ChildProcess(self._path, self.seconds, self.command)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.end()
        self._folder.cleanup()

    def run(self, workload: Workload, decisions: Decisions, rival: Decisions, repeats: int = 5) -> Outcome:
        """The outcome of ``decisions`` in turns with those of ``rival``.

        Raises :class:`DeviceError` where no process can be started at all.
        """
        try:
            inputs = self._inputs_of(workload)
        except MemoryError:
            return Outcome("memory", message="operands and answer do not fit into this machine's memory")
        request = Request(
            workload.text,
            self.target,
            self.place,
            dict(decisions),
            dict(rival),
            str(inputs),
            repeats,
            self.memory,
        )
        self._child.command = self.command
        return dataclasses.replace(self._child.run(request), origin=self.origin)

    def abort(self) -> None:
        """Ends the trial that runs."""
        self._child.end()

    def _inputs_of(self, workload: Workload) -> Path:
        """The file of a workload's operands and answer; only that of the last one is kept."""
        if self._inputs is None or self._inputs[0] != workload:
            path = self._path / "inputs.npz"
            if self.place != "lab":
                write_inputs(workload, path)
            self._inputs = (workload, path)
        return self._inputs[1]


def write_inputs(workload: Workload, path: Path) -> None:
    """Writes a workload's random operands, and ``expected``, the reference's answer to them."""
    from ddimcache.tuning import kernels

    arrays = kernels.make_inputs(workload)
    np.savez(path, **{**arrays, "expected": kernels.expected(workload, arrays)})  # type: ignore[arg-type]
