"""Trials of kernels that were built here, on devices behind RPC: sent, and checked and timed over there.

The server runs each in a process of its own, so that what a candidate does is an outcome and the connection
stays. Where the connection breaks nevertheless, the trial goes to another device, or to the same one when it
is back; a candidate that takes two connections down is an outcome as well. No time includes the network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ddimcache.errors import DdimcacheError, RemoteError
from ddimcache.records import RecordProblem, from_json, to_json
from ddimcache.runtime.rpc import RemoteDevice
from ddimcache.runtime.rpc_protocol import CHUNK_BYTES
from ddimcache.runtime.rpc_trials import TrialArray, TrialRequest
from ddimcache.runtime.trial import Outcome, Status
from ddimcache.tuning.builder import Built
from ddimcache.tuning.far_devices import FarDevice, FarDevices

_MOST_LOSSES = 2
_GRACE_SECONDS = 30.0
"""What a server has beyond a trial's time to say what came of it."""

_SLOWEST_BYTES = 1 << 20
"""A second, of a network that is worth waiting for."""

Pair = tuple[Built, Built]
"""A candidate and its rival."""


@dataclass(frozen=True)
class Question:
    """What the results of both kernels have to be: ``path`` has the numbers of ``right``."""

    right: TrialArray
    path: Path
    dtype: str
    tolerance: float
    repeats: int


class FarTrials:
    """Runs trials on ``devices``, each within ``seconds`` and ``memory`` bytes of address space, 0 for any.

    ``host`` is built for; without it, what each server says it is. ``origin_of`` says what the manifest calls
    a device.
    """

    def __init__(
        self,
        devices: FarDevices,
        *,
        host: str | None = None,
        seconds: float = 60,
        memory: int = 0,
        origin_of: Callable[[FarDevice], str] = lambda _: "",
    ) -> None:
        self.devices, self.host, self.origin_of = devices, host, origin_of
        self.seconds, self.memory = seconds, memory
        self._last_host: str | None = None

    def run(self, build: Callable[[str], Pair | Outcome], question: Question) -> Outcome:
        """The outcome of what ``build`` makes for a host; from any thread.

        Raises :class:`RemoteError` when no device is left.
        """
        losses = 0
        host = self.host or self._last_host
        # While it is built, others may have the device.
        built = None if host is None else build(host)
        while True:
            if isinstance(built, Outcome):
                return built
            with self.devices.lend() as lent:
                wanted = self.host or lent.device.info.host
                if built is None or wanted != host:
                    host = self._last_host = wanted
                    built = build(host)
                    continue
                began = False
                try:
                    self._send_files(lent.device, question, built)
                    began = True
                    outcome = self._ask(lent.device, question, built)
                except DdimcacheError as error:
                    self.devices.note_problem(lent, str(error))
                    # One that is lost in a trial may be so because of the candidate.
                    losses += began and not lent.device.is_open
                    if losses == _MOST_LOSSES:
                        status: Status = "hung" if isinstance(error, _LateError) else "crashed"
                        return Outcome(status, message=f"devices were lost with it: {error}"[:500])
                else:
                    self.devices.note_good(lent)
                    return dataclasses.replace(outcome, origin=self.origin_of(lent))

    @staticmethod
    def _send_files(device: RemoteDevice, question: Question, built: Pair) -> None:
        """Sends what the server has not from the trials before."""
        files = {question.right.sha256: question.path, **built[0].files, **built[1].files}
        sizes = {sha256: path.stat().st_size for sha256, path in files.items()}
        with _no_longer_than(device, _GRACE_SECONDS + sum(sizes.values()) / _SLOWEST_BYTES):
            announced = [{"sha256": sha256, "bytes": size} for sha256, size in sizes.items()]
            missing, _ = device.call("trial_files", {"files": announced})
            for sha256, here in _parts(missing, sizes):
                _send(device, files[sha256], sha256, here)

    def _ask(self, device: RemoteDevice, question: Question, built: Pair) -> Outcome:
        request = TrialRequest(
            built[0].kernel,
            built[1].kernel,
            question.right,
            question.dtype,  # type: ignore[arg-type]
            question.tolerance,
            question.repeats,
            self.seconds,
            self.memory,
        )
        with _no_longer_than(device, self.seconds + _GRACE_SECONDS):
            result, _ = device.call("trial", to_json(request))
        try:
            return from_json(Outcome, result)
        except RecordProblem as error:
            raise RemoteError(f"sent an outcome that cannot be read: {error}"[:400]) from error


class _LateError(DdimcacheError):
    """A server did not answer in time, and the connection was cut."""


@contextmanager
def _no_longer_than(device: RemoteDevice, seconds: float) -> Iterator[None]:
    """Cuts the connection when what is inside takes longer, and raises :class:`_LateError` for it then."""
    is_late = threading.Event()

    def cut() -> None:
        is_late.set()
        device.abort()

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except RemoteError as error:
        if is_late.is_set():
            raise _LateError(f"did not answer in {seconds:.0f} s", where=str(device.address)) from error
        raise
    finally:
        timer.cancel()


def _parts(missing: object, sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    """The files that a server lacks, with the bytes that it has of them."""
    with contextlib.suppress(TypeError, ValueError):
        parts = [(str(sha256), int(here)) for sha256, here in missing]  # type: ignore[attr-defined]
        if all(0 <= here <= sizes.get(sha256, -1) for sha256, here in parts):
            return parts
    raise RemoteError("sent a list of files that cannot be read")


def _send(device: RemoteDevice, path: Path, sha256: str, offset: int) -> None:
    with path.open("rb") as stream:
        stream.seek(offset)
        while piece := stream.read(CHUNK_BYTES):
            device.call("trial_write", {"sha256": sha256, "offset": offset}, piece)
            offset += len(piece)
