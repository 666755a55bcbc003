"""Results as they arrive: a file of JSON lines that is only appended to, and whole after a kill.

A line is ``{"job": …, "result": …}`` with facts beside, or ``{"job": …, "error": …}`` for one given up.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ddimcache.errors import DdimcacheError, UsageError
from ddimcache.records import JsonValue, RecordProblem, loads


class ResultLog:
    """The file; :attr:`results` has the last result of each job.

    A line that a kill or a full disk has torn is cut off when the file is opened. Raises :class:`UsageError`
    when another process has it open, or it holds something else, :class:`DdimcacheError` when it cannot be
    written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, JsonValue] = {}
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise DdimcacheError(f"cannot be written: {error.strerror}", where=path) from error
        try:
            self._read()
        except BaseException:
            os.close(self._handle)
            raise

    def append(self, job: str, result: JsonValue, about: dict[str, Any]) -> None:
        """Write a result; it is on the disk when this returns. Raises :class:`DdimcacheError`."""
        self._write({"job": job, **about, "result": result})
        self.results[job] = result

    def append_failure(self, job: str, problem: str, about: dict[str, Any]) -> None:
        """Write that a job was given up; it counts as not done."""
        self._write({"job": job, **about, "error": problem})

    def close(self) -> None:
        """Let others have the file."""
        os.close(self._handle)

    def _read(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError("is being written by another run", where=self.path) from error
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.ftruncate(self._handle, len(whole))
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = loads(line)
                job = entry["job"]
                if "result" in entry:
                    self.results[str(job)] = entry["result"]
            except (RecordProblem, KeyError, TypeError) as error:
                remedy = "name another file, or remove that line"
                raise UsageError(f"line {number} is no result", where=self.path, remedy=remedy) from error

    def _write(self, entry: dict[str, Any]) -> None:
        line = memoryview(json.dumps(entry, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        end = os.fstat(self._handle).st_size
        try:
            while line:
                line = line[os.write(self._handle, line) :]
            os.fsync(self._handle)
        except OSError as error:
            os.ftruncate(self._handle, end)
            raise DdimcacheError(f"cannot be written: {error.strerror}", where=self.path) from error
