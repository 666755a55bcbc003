"""The methods that a server offers to its client: a store for files, and one session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from ddimcache.errors import DdimcacheError, DeviceError, RemoteError, UsageError
from ddimcache.manifest import Count, Size
from ddimcache.records import Limits, Record, RecordProblem, from_json, to_json
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest, MemoryChoice
from ddimcache.runtime.local_device import keep_programs
from ddimcache.runtime.profiler import LocalProfiler
from ddimcache.runtime.rpc_protocol import PREFIX, error_reply, pack, unpack
from ddimcache.runtime.rpc_store import Store
from ddimcache.runtime.rpc_trials import TrialFiles, TrialRequest, Trials
from ddimcache.runtime.session import Session, check_request

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Piece:
    sha256: str
    offset: Count


@dataclass(frozen=True)
class _Sum:
    sha256: str


@dataclass(frozen=True)
class _Draw:
    size: tuple[Size, Size] | None
    ids: tuple[int, ...]
    negative_ids: tuple[int, ...]
    seed: int | None
    strength: float | None
    mask_bytes: Count | None
    sampler: str
    steps: int
    cache_interval: int
    full_steps: tuple[int, ...]
    guidance: float
    wait_seconds: Annotated[float, Limits(minimum=0)] | None


@dataclass(frozen=True)
class _Poll:
    wait_seconds: Annotated[float, Limits(minimum=0)]
    preview: bool


@dataclass(frozen=True)
class _Most:
    most: Count


@dataclass(frozen=True)
class _Peaks:
    again: bool


@dataclass(frozen=True)
class _Nothing:
    pass


class SessionCalls:
    """One client's calls. A method takes a checked record and raw bytes, and returns (result, raw bytes).

    ``memory_budget`` in bytes bounds what a session has on the device, whatever the client asks for.
    ``driver`` says what the device is driven by, ``work`` is a folder that goes when the client leaves.
    """

    def __init__(
        self,
        store: Store,
        device: DeviceSpec,
        memory_budget: int | None = None,
        driver: str = "",
        work: Path | None = None,
    ) -> None:
        self._store = store
        self._device = device
        self._memory_budget = memory_budget
        self._driver = driver
        self._session: Session | None = None
        self._trials = Trials(store, device, memory_budget, work)
        self._is_opened = False
        self._methods: dict[str, tuple[type, Callable[[Any, bytes], tuple[Any, bytes]]]] = {
            "missing": (_Nothing, self._missing),
            "write": (_Piece, self._write),
            "finish": (_Sum, self._finish),
            "open": (MemoryChoice, self._open),
            "draw": (_Draw, self._draw),
            "poll": (_Poll, lambda poll, _: self._opened().answer("poll", to_json(poll))),
            "cancel": (_Nothing, lambda _, __: self._opened().answer("cancel")),
            "peak_bytes": (_Nothing, lambda _, __: self._opened().answer("peak_bytes")),
            "profile_start": (_Nothing, self._profile_start),
            "profile_stop": (_Nothing, self._profile_stop),
            "peaks": (_Peaks, self._peaks),
            "keep_programs": (_Most, self._keep_programs),
            "memory": (_Nothing, self._memory),
            "close": (_Nothing, self._close),
            "describe": (_Nothing, lambda _, __: ({"driver": self._driver}, b"")),
            "trial_files": (TrialFiles, lambda files, _: (self._trials.announce(files), b"")),
            "trial_write": (_Piece, self._trial_write),
            "trial": (TrialRequest, self._trial),
        }

    def register(self, around: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """Register every method as a global function that TVM's RPC can reach.

        ``around`` is entered while a call is answered.
        """
        import tvm_ffi

        for name in self._methods:
            tvm_ffi.register_global_func(PREFIX + name, self._function(name, around), override=True)

    def answer(self, name: str, message: bytes) -> bytes:
        """Run one method on a message and return the reply; errors are in the reply, none is raised."""
        kind, method = self._methods[name]
        try:
            head, body = unpack(message)
            return pack(*_with_head(method(_read(kind, head, name), body)))
        except DdimcacheError as error:
            return error_reply(error)
        except (
            Exception
        ) as error:  # a defect: the log has the trace, the client a message, the server goes on
            logger.exception("%s failed", name)
            text = f"failed inside: {type(error).__name__}: {error}"
            return error_reply(DeviceError(text, where=f"server's {name}", remedy="its log has the trace"))

    def _function(
        self, name: str, around: Callable[[], AbstractContextManager[None]]
    ) -> Callable[[bytes], bytes]:
        def function(message: bytes) -> bytes:
            with around():
                return self.answer(name, bytes(message))

        return function

    def _opened(self) -> Session:
        if self._session is None:
            raise UsageError("open a bundle first", where="remote session")
        return self._session

    def _missing(self, _: _Nothing, manifest: bytes) -> tuple[Any, bytes]:
        return self._store.missing(manifest), b""

    def _write(self, piece: _Piece, content: bytes) -> tuple[Any, bytes]:
        return self._store.write(piece.sha256, piece.offset, content), b""

    def _finish(self, file: _Sum, _: bytes) -> tuple[Any, bytes]:
        self._store.finish(file.sha256)
        return None, b""

    def _open(self, memory: MemoryChoice, manifest: bytes) -> tuple[Any, bytes]:
        self._close(_Nothing(), b"")
        limits = [limit for limit in (memory.budget, self._memory_budget) if limit is not None]
        memory = MemoryChoice(memory.mode, min(limits, default=None))
        self._is_opened = True
        self._session = Session(self._store.bundle(manifest), self._device, memory)
        return None, b""

    def _draw(self, draw: _Draw, body: bytes) -> tuple[Any, bytes]:
        noise = body if draw.seed is None else draw.seed
        numbers = (draw.steps, draw.cache_interval, draw.guidance)
        request = ImageRequest(
            draw.ids, draw.negative_ids, noise, *numbers, draw.full_steps, sampler=draw.sampler
        )
        if draw.strength is not None:
            image = body[: len(body) - (draw.mask_bytes or 0)]
            request = replace(request, image=image, strength=draw.strength)
        check_request(request)
        return self._opened().answer("draw", to_json(draw), body)

    def _profiler(self) -> LocalProfiler:
        self._is_opened = True
        return LocalProfiler(self._device)

    def _keep_programs(self, most: _Most, _: bytes) -> tuple[Any, bytes]:
        self._is_opened = True
        return keep_programs(self._device, most.most), b""

    def _memory(self, _: _Nothing, __: bytes) -> tuple[Any, bytes]:
        return self._profiler().memory(), b""

    def _trial_write(self, piece: _Piece, content: bytes) -> tuple[Any, bytes]:
        return self._trials.write(piece.sha256, piece.offset, content), b""

    def _trial(self, request: TrialRequest, _: bytes) -> tuple[Any, bytes]:
        if self._is_opened:
            # What a driver starts survives no fork.
            raise UsageError("needs a connection that has not used the device", where="trial")
        return to_json(self._trials.run(request)), b""

    def _profile_start(self, _: _Nothing, __: bytes) -> tuple[Any, bytes]:
        self._profiler().start()
        return None, b""

    def _profile_stop(self, _: _Nothing, __: bytes) -> tuple[Any, bytes]:
        timeline = self._profiler().stop()
        return timeline.names, timeline.to_bytes()

    def _peaks(self, peaks: _Peaks, _: bytes) -> tuple[Any, bytes]:
        found, kept = self._profiler().peaks(peaks.again)
        return {"peaks": to_json(found), "kept": kept}, b""

    def _close(self, _: _Nothing, __: bytes) -> tuple[Any, bytes]:
        if self._session is not None:
            self._session.close()
            self._session = None
        self._store.release()
        return None, b""


def _with_head(answer: tuple[Any, bytes]) -> tuple[dict[str, Any], bytes]:
    result, body = answer
    return {"result": result}, body


def _read(kind: type[Record], head: Any, name: str) -> Record:
    try:
        return from_json(kind, head)
    except RecordProblem as problem:
        raise RemoteError(str(problem), where=f"call of {name}") from problem
