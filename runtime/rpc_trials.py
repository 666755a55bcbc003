"""Trials for a tuner behind RPC: kernels that it has built, run in a process of their own on the device here.

A client's process never opens the device for a trial: it forks, and what a candidate does to the driver ends
with the fork. So the connection outlives candidates that crash, hang or take too much memory, and the next
one finds the device as if nothing had been. What a client sends for its trials lies in the folder of its
connection and goes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import BundleError, DeviceError, UsageError
from ddimcache.manifest import Count, Sha256, Size
from ddimcache.records import Limits, RecordProblem, from_json, loads, to_json
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.rpc_store import Store
from ddimcache.runtime.trial import Outcome, Prepared, check_and_time, outcome_of_end, outcome_of_error

LARGEST_FILE = 4 << 30
_LARGEST_RESULT = 1 << 16
_ENDING_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class TrialFile:
    """A file of a trial: a library, or the numbers of an array."""

    sha256: Sha256
    bytes: Annotated[int, Limits(minimum=1, maximum=LARGEST_FILE)]


@dataclass(frozen=True)
class TrialFiles:
    """What the next trials are made of; files of before that are not among them are removed."""

    files: Annotated[tuple[TrialFile, ...], Limits(maximum=64)]


@dataclass(frozen=True)
class TrialArray:
    """An array: a file with its numbers, dense and row-major."""

    sha256: Sha256
    shape: Annotated[tuple[Size, ...], Limits(minimum=1, maximum=8)]
    dtype: Literal["float32", "float16", "int8", "int32"]


@dataclass(frozen=True)
class TrialKernel:
    """A library whose ``main`` takes ``arguments`` and then its result."""

    library: Sha256
    arguments: Annotated[tuple[TrialArray, ...], Limits(maximum=16)]
    shape: Annotated[tuple[Size, ...], Limits(minimum=1, maximum=8)]
    """Of the result."""


@dataclass(frozen=True)
class TrialRequest:
    """A trial over RPC: ``candidate`` in turns with ``rival``, whose results are of ``dtype``.

    ``expected`` is the right answer and ``tolerance`` the share of its largest number that a right one may be
    away. ``repeats`` are rounds of turns, ``seconds`` what all of it may take, ``memory`` the bytes of
    address space that it may have, 0 for any.
    """

    candidate: TrialKernel
    rival: TrialKernel
    expected: TrialArray
    dtype: Literal["float32", "float16"]
    tolerance: Annotated[float, Limits(minimum=0, maximum=1)]
    repeats: Annotated[int, Limits(minimum=1, maximum=1000)]
    seconds: Annotated[float, Limits(minimum=0.01, maximum=3600)]
    memory: Count


class Trials:
    """The trials of one client: its files in ``folder``, its device, and what a trial may have of it.

    ``memory_budget`` are bytes on the device. Where there is no ``folder`` the store gives one.
    """

    def __init__(
        self, store: Store, device: DeviceSpec, memory_budget: int | None = None, folder: Path | None = None
    ) -> None:
        self._store, self._device, self._memory_budget = store, device, memory_budget
        self._given_folder = folder
        self._expected: dict[str, int] = {}

    def announce(self, wanted: TrialFiles) -> list[tuple[str, int]]:
        """Returns (sha256, bytes already here) of each file that is not here as a whole; drops all others.

        Raises :class:`DeviceError` where the store has no room, :class:`BundleError` for two sizes of a file.
        """
        expected: dict[str, int] = {}
        for file in wanted.files:
            if expected.setdefault(file.sha256, file.bytes) != file.bytes:
                raise BundleError("is announced with two sizes", where=file.sha256)
        for path in self._folder.iterdir():
            if path.name.partition(".")[0] not in expected:
                path.unlink()
        self._expected = expected
        missing, needed = [], 0
        for sha256, size in expected.items():
            if not self._whole(sha256).is_file():
                part = self._part(sha256)
                here = min(part.stat().st_size, size) if part.is_file() else 0
                missing.append((sha256, here))
                needed += size - here
        if needed:
            self._store.make_room(needed)
        return missing

    def write(self, sha256: str, offset: int, content: bytes) -> int:
        """Writes a piece of an announced file, at most at its end; returns how many bytes are here.

        With its last piece the sum is checked. Raises :class:`BundleError` for a piece that does not fit or a
        file that arrived altered, :class:`DeviceError` where it cannot be written.
        """
        size = self._expected.get(sha256)
        if size is None:
            raise BundleError("is not among the files that were announced", where=sha256[:80])
        part = self._part(sha256)
        here = part.stat().st_size if part.is_file() else 0
        if offset > here or offset + len(content) > size:
            raise BundleError(
                f"a piece for bytes {offset} to {offset + len(content)} came where {here} of {size} are here",
                where=sha256,
            )
        try:
            with part.open("r+b" if here else "wb") as stream:
                stream.truncate(offset)
                stream.seek(offset)
                stream.write(content)
        except OSError as error:
            raise DeviceError(
                f"cannot be written: {error.strerror or error}",
                where=f"the server's store {self._store.folder}",
                remedy="make room on its disk",
            ) from error
        if offset + len(content) == size:
            if _sum_of(part) != sha256:
                part.unlink()
                raise BundleError("arrived altered", where=sha256, remedy="send it again")
            part.replace(self._whole(sha256))
        return offset + len(content)

    def run(self, request: TrialRequest) -> Outcome:
        """The outcome of a trial, whatever becomes of the process that runs it.

        Raises :class:`UsageError` for a trial that does not fit its files.
        """
        for kernel in (request.candidate, request.rival):
            self._check_whole(kernel.library)
            for array in kernel.arguments:
                self._check(array)
        self._check(request.expected)
        log, programs = self._folder.parent / "trial.log", self._folder.parent / "programs"

        def work() -> None:
            # Programs of candidates are of no use to anybody later.
            os.environ.update({"DDIMCACHE_PROGRAM_CACHE": "0", "POCL_CACHE_DIR": str(programs)})
            if request.memory:
                resource.setrlimit(resource.RLIMIT_AS, (request.memory, request.memory))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            report(json.dumps(to_json(self._timed(request)), allow_nan=False).encode())

        read_end, write_end = os.pipe()

        def report(content: bytes) -> None:
            while content:
                content = content[os.write(write_end, content) :]

        process = _forked(work, keep=write_end, log=log)
        os.close(write_end)
        try:
            result, in_time = _read_until(read_end, time.monotonic() + request.seconds)
        finally:
            os.close(read_end)
        status = _end(process, at_once=not in_time)
        if not in_time:
            return Outcome("hung", message=f"ended after {request.seconds:g} s")
        if status is None:
            return Outcome("hung", message="its process cannot be ended, the driver keeps it")
        reason = ""
        if result:
            try:
                return from_json(Outcome, loads(result))
            except (RecordProblem, UnicodeDecodeError) as error:
                reason = f"left no result that can be read: {error}"
        return outcome_of_end(status, log.read_bytes()[-2000:] if log.is_file() else b"", reason)

    def _timed(self, request: TrialRequest) -> Outcome:
        import tvm

        from ddimcache.runtime import devices
        from ddimcache.runtime.local_device import is_cpu, open_device

        device = open_device(self._device, self._device.kind)
        if self._memory_budget is not None and self._device.kind == "opencl":
            devices.set_memory_budget(self._device.index, self._memory_budget)
        arrays: dict[TrialArray, NDArray[Any]] = {}

        def prepared(kernel: TrialKernel) -> Prepared:
            given = [arrays.setdefault(array, self._array(array)) for array in kernel.arguments]
            return Prepared(functions[kernel.library]["main"], given, kernel.shape, request.dtype, device)

        try:
            paths = {
                kernel.library: self._whole(kernel.library) for kernel in (request.candidate, request.rival)
            }
            functions = {sha256: tvm.runtime.load_module(str(path)) for sha256, path in paths.items()}
            right = self._array(request.expected).astype(np.float64)
            return check_and_time(
                lambda: prepared(request.candidate),
                lambda: prepared(request.rival),
                right,
                request.tolerance,
                device.sync,
                request.repeats,
                is_cpu(self._device),
            )
        except MemoryError:
            return Outcome("memory", message="asked for more memory than a trial may have")
        except Exception as error:  # a candidate's failure, of whatever kind, is its outcome
            return outcome_of_error(error)

    @property
    def _folder(self) -> Path:
        if self._given_folder is None:
            self._given_folder = self._store.work_folder()
        folder = self._given_folder / "trial"
        folder.mkdir(exist_ok=True)
        return folder

    def _whole(self, sha256: str) -> Path:
        # TVM knows a library by this ending.
        return self._folder / f"{sha256}.so"

    def _part(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.part"

    def _check_whole(self, sha256: str) -> Path:
        if not (path := self._whole(sha256)).is_file():
            raise UsageError("has not been sent", where=f"file {sha256}")
        return path

    def _check(self, array: TrialArray) -> None:
        expected = int(np.prod(array.shape, dtype=object)) * np.dtype(array.dtype).itemsize
        found = self._check_whole(array.sha256).stat().st_size
        if found != expected:
            raise UsageError(f"has {found} bytes, not {expected}", where=f"array {array.sha256}")

    def _array(self, array: TrialArray) -> NDArray[Any]:
        return np.fromfile(self._whole(array.sha256), array.dtype).reshape(array.shape)


def _sum_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _forked(work: Callable[[], None], keep: int, log: Path) -> int:
    """Runs ``work`` in a process of its own, with a group of its own; returns its id.

    Of this process's files it has only ``keep``: the client's connection must not stay open with it.
    """
    parent = os.getpid()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for standard in (1, 2):
            os.dup2(output, standard)
        os.closerange(3, keep)
        os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
        work()
        code = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(code)


def _read_until(handle: int, deadline: float) -> tuple[bytes, bool]:
    """What comes through a pipe until its other end is closed, and whether that was before ``deadline``."""
    content = b""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if not poll.poll(left * 1000):
            continue
        piece = os.read(handle, 4096)
        if not piece or len(content) > _LARGEST_RESULT:
            return content, True
        content += piece
    return content, False


def _end(process: int, *, at_once: bool) -> int | None:
    """Ends a process with its group and returns how it ended, as ``subprocess`` says it; None where it stays.

    One that has closed its pipe ends by itself, and is given a second for it.
    """
    begin = time.monotonic()
    while time.monotonic() < begin + _ENDING_SECONDS:
        gone = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if gone or at_once or time.monotonic() > begin + 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if gone:
            return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        time.sleep(0.005)
    return None
