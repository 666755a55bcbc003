"""A request carried out by a process of its own, with a limit of time, whatever becomes of the process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ddimcache.errors import DeviceError
from ddimcache.records import RecordProblem, from_json, loads, to_json
from ddimcache.runtime.trial import Outcome, outcome_of_end
from ddimcache.tuning.outcome import Request

CHILD = (sys.executable, "-m", "ddimcache.tuning.child")
LARGEST_RESULT = 1 << 16


class ChildProcess:
    """Carries out one request at a time by ``command``, with its files in ``folder``, which is made.

    ``seconds`` limit a request. :meth:`end` may be called from any thread, and nothing is begun after it.
    """

    def __init__(self, folder: Path, seconds: float, command: Sequence[str] = CHILD) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.seconds, self.command = folder, seconds, tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False

    def run(self, request: Request) -> Outcome:
        """What came of ``request``; raises :class:`DeviceError` where no process can be started at all."""
        asked, result = self.folder / "request.json", self.folder / "result.json"
        asked.write_text(json.dumps(to_json(request)), encoding="utf-8")
        result.unlink(missing_ok=True)
        log = self.folder / "log"
        # Programs of candidates are of no use to anybody later.
        kept = {"DDIMCACHE_PROGRAM_CACHE": "0", "POCL_CACHE_DIR": str(self.folder / "programs")}
        with log.open("wb") as stream:
            try:
                process = self._process = subprocess.Popen(
                    [*self.command, str(asked), str(result)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env={**os.environ, **kept},
                    start_new_session=True,
                )
            except OSError as error:
                raise DeviceError(
                    f"no process for a trial can be started: {error.strerror}", where=self.command[0]
                ) from error
            if self._is_over:
                self._kill(process)
            try:
                status = process.wait(self.seconds)
            except subprocess.TimeoutExpired:
                return Outcome("hung", message=f"ended after {self.seconds:g} s")
            finally:
                # Also what it has started and left.
                self._kill(process)
                self._process = None
        reason = ""
        try:
            if status == 0 and result.stat().st_size <= LARGEST_RESULT:
                return from_json(Outcome, loads(result.read_bytes()))
        except (OSError, RecordProblem, UnicodeDecodeError) as error:
            reason = f"left no result that can be read: {error}"
        return outcome_of_end(status, log.read_bytes()[-2000:], reason)

    def end(self) -> None:
        """Ends the process that is at work, with everything that it started, and those that would come."""
        self._is_over = True
        if (process := self._process) is not None:
            self._kill(process)

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
