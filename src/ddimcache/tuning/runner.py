"""Runs trials in processes of their own, with limits of time and memory, and says what came of each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ddimcache.compiler.target import Decisions
from ddimcache.errors import DeviceError
from ddimcache.kernels.workload import Workload
from ddimcache.records import RecordProblem, from_json, loads, to_json
from ddimcache.tuning.outcome import Outcome, Request

CHILD = (sys.executable, "-m", "ddimcache.tuning.child")
LARGEST_RESULT = 1 << 16
_OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Cannot allocate memory", "failed to map segment")


class Runner:
    """Trials of one workload after another on a local device, or in the Adreno lab (``place`` ``lab``).

    ``seconds`` and ``memory`` (bytes, 0 for any) limit a trial; ``command`` is what runs one. Used as a
    context: leaving it ends a trial that runs and removes the files.
    """

    def __init__(
        self,
        target: str,
        place: str,
        *,
        seconds: float = 60,
        memory: int = 0,
        command: Sequence[str] = CHILD,
    ) -> None:
        self.target, self.place = target, place
        self.seconds, self.memory, self.command = seconds, memory, tuple(command)
        self._inputs: tuple[Workload, Path] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Runner:
        self._folder = tempfile.TemporaryDirectory(prefix="ddimcache-tune-")
        self._path = Path(self._folder.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._folder.cleanup()

    def run(self, workload: Workload, decisions: Decisions, rival: Decisions, repeats: int = 5) -> Outcome:
        """The outcome of ``decisions`` in turns with those of ``rival``.

        Raises :class:`DeviceError` where no process can be started at all.
        """
        request = Request(
            workload.text,
            self.target,
            self.place,
            dict(decisions),
            dict(rival),
            str(self._inputs_of(workload)),
            repeats,
            self.memory,
        )
        asked, result = self._path / "request.json", self._path / "result.json"
        asked.write_text(json.dumps(to_json(request)), encoding="utf-8")
        result.unlink(missing_ok=True)
        log = self._path / "log"
        with log.open("wb") as stream:
            try:
                self._process = subprocess.Popen(
                    [*self.command, str(asked), str(result)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=self._environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise DeviceError(
                    f"no process for a trial can be started: {error.strerror}", where=self.command[0]
                ) from error
            try:
                status = self._process.wait(self.seconds)
            except subprocess.TimeoutExpired:
                return Outcome("hung", message=f"ended after {self.seconds:g} s")
            finally:
                self._end()
        return self._outcome(result, status, log)

    def _outcome(self, result: Path, status: int, log: Path) -> Outcome:
        try:
            if status == 0 and result.stat().st_size <= LARGEST_RESULT:
                return from_json(Outcome, loads(result.read_bytes()))
            reason = f"ended with {status}"
        except (OSError, RecordProblem, UnicodeDecodeError) as error:
            reason = f"left no result that can be read: {error}"
        if status < 0:
            with contextlib.suppress(ValueError):
                reason = f"ended by {signal.Signals(-status).name}"
        text = log.read_bytes()[-2000:].decode(errors="replace")
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
        kind = "memory" if any(sign in text for sign in _OUT_OF_MEMORY) else "crashed"
        return Outcome(kind, message=f"{reason}; {last}"[:500])  # type: ignore[arg-type]

    def _end(self) -> None:
        """Ends the process with everything that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _environment(self) -> Mapping[str, str]:
        # Programs of candidates are of no use to anybody later.
        kept = {"DDIMCACHE_PROGRAM_CACHE": "0", "POCL_CACHE_DIR": str(self._path / "programs")}
        return {**os.environ, **kept}

    def _inputs_of(self, workload: Workload) -> Path:
        """The file of a workload's operands and answer; only that of the last one is kept."""
        if self._inputs is None or self._inputs[0] != workload:
            path = self._path / "inputs.npz"
            if self.place != "lab":
                from ddimcache.tuning.kernels import expected, make_inputs

                arrays = make_inputs(workload)
                np.savez(path, **{**arrays, "expected": expected(workload, arrays)})  # type: ignore[arg-type]
            self._inputs = (workload, path)
        return self._inputs[1]
