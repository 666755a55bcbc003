"""Builds candidates here for devices elsewhere: a library for their host, and its arguments, as files.

Each is built in a process of its own: a code generator that crashes or never ends is an outcome like any.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddimcache.compiler.target import Decisions
from ddimcache.kernels.workload import Workload, parse
from ddimcache.runtime.rpc_trials import TrialArray, TrialKernel
from ddimcache.runtime.trial import Outcome, last_line
from ddimcache.tuning.child_process import CHILD, ChildProcess
from ddimcache.tuning.explorer import key_of
from ddimcache.tuning.outcome import Request
from ddimcache.tuning.runner import write_inputs

LIBRARY, ARGUMENTS, EXPECTED, MODULE = "main.so", "argument{}.bin", "expected.bin", "module.json"


@dataclass(frozen=True)
class Built:
    """A candidate that was built: what a server is told of it, and its files by their sums."""

    kernel: TrialKernel
    files: Mapping[str, Path]


class Builder:
    """Builds candidates of one workload after another for ``target``, from any thread.

    ``seconds`` and ``memory`` (bytes of address space, 0 for any) limit a build; its files lie in ``folder``,
    those of the last ``kept`` candidates, so that the best so far is built once.
    """

    def __init__(
        self,
        target: str,
        folder: Path,
        *,
        seconds: float,
        memory: int = 0,
        kept: int = 8,
        command: Sequence[str] = CHILD,
    ) -> None:
        self.kept = kept
        self.target, self.seconds, self.memory, self.command = target, seconds, memory, command
        self._folder = folder
        self._lock = threading.Lock()
        self._built: OrderedDict[Any, Future[Built | Outcome]] = OrderedDict()
        self._inputs: tuple[Workload, Path, TrialArray] | None = None
        self._children: set[ChildProcess] = set()
        self._count = 0
        self._is_over = False

    def expected(self, workload: Workload) -> tuple[TrialArray, Path]:
        """The reference's answer, in float32; inputs of a workload are made when it is first asked for."""
        with self._lock:
            if self._inputs is None or self._inputs[0] != workload:
                for future in self._built.values():
                    _remove(future)
                self._built.clear()
                self._count += 1
                folder = self._folder / f"inputs{self._count}"
                folder.mkdir(parents=True)
                write_inputs(workload, folder / "inputs.npz")
                with np.load(folder / "inputs.npz", allow_pickle=False) as arrays:
                    right = arrays["expected"].astype(np.float32)
                right.tofile(folder / EXPECTED)
                if self._inputs is not None:
                    shutil.rmtree(self._inputs[1])
                self._inputs = (workload, folder, _array(folder / EXPECTED, right.shape, "float32"))
            return self._inputs[2], self._inputs[1] / EXPECTED

    def build(self, workload: Workload, decisions: Decisions, host: str) -> Built | Outcome:
        """The candidate, or what came of it instead; :meth:`expected` of the workload was asked for before.

        Raises :class:`DeviceError` where no process can be started at all.
        """
        key = (workload, key_of(decisions), host)
        with self._lock:
            future = self._built.get(key)
            mine = future is None
            if future is None:
                future = self._built[key] = Future()
                self._count += 1
                child = ChildProcess(self._folder / f"build{self._count}", self.seconds, self.command)
                if self._is_over:
                    child.end()
                self._children.add(child)
            self._built.move_to_end(key)
            while len(self._built) > self.kept and next(iter(self._built.values())).done():
                _remove(self._built.popitem(last=False)[1])
        if mine:
            try:
                future.set_result(self._build(workload, decisions, host, child))
            except BaseException as error:
                future.set_exception(error)
                raise
            finally:
                self._children.discard(child)
        return future.result()

    def build_module(self, module: Any, like: TrialKernel, host: str) -> Built | Outcome:
        """A kernel that is scheduled already, and takes what ``like`` takes; its files are its caller's."""
        import tvm

        with self._lock:
            self._count += 1
            child = ChildProcess(self._folder / f"module{self._count}", self.seconds, self.command)
            if self._is_over:
                child.end()
            self._children.add(child)
        out = child.folder
        (out / MODULE).write_text(tvm.ir.save_json(module), encoding="utf-8")
        request = Request(
            "", self.target, "module", {}, {}, str(out / MODULE), 1, self.memory, host, str(out)
        )
        try:
            outcome = child.run(request)
        finally:
            self._children.discard(child)
        if outcome.status != "good":
            shutil.rmtree(out, ignore_errors=True)
            return outcome
        library = _sum_of(out / LIBRARY)
        return Built(dataclasses.replace(like, library=library), {library: out / LIBRARY})

    def end(self) -> None:
        """Ends what is being built."""
        with self._lock:
            self._is_over = True
            for child in self._children:
                child.end()

    def _build(
        self, workload: Workload, decisions: Decisions, host: str, child: ChildProcess
    ) -> Built | Outcome:
        assert self._inputs is not None
        out = child.folder
        request = Request(
            workload.text,
            self.target,
            "build",
            dict(decisions),
            {},
            str(self._inputs[1] / "inputs.npz"),
            1,
            self.memory,
            host,
            str(out),
        )
        outcome = child.run(request)
        if outcome.status != "good":
            shutil.rmtree(out, ignore_errors=True)
            return outcome
        return _read(out)


def build_for_host(request: Request) -> Outcome:
    """Builds what ``request`` asks for, in this process, into the files that :class:`Builder` reads."""
    from ddimcache.compiler.linker import find_linker
    from ddimcache.compiler.target import profile
    from ddimcache.tuning import kernels

    out, linker = Path(request.out), find_linker(request.host)
    if request.place == "module":
        return _build_module(request, out, linker.compile_function())
    workload = parse(request.workload)
    device = dataclasses.replace(profile(request.target), tuned={workload: request.decisions})
    with np.load(request.inputs, allow_pickle=False) as kept:
        arrays = {name: kept[name] for name in kept.files if name != "expected"}
    try:
        inputs = kernels.arguments(workload, device, arrays)
        function = kernels.kernel_of(workload, device, inputs)
        library = kernels.build(function, device, request.host)
        library.export_library(str(out / LIBRARY), fcompile=linker.compile_function())
    except MemoryError:
        raise
    except Exception as error:
        # Schedules and code generators raise whatever they like at tiles that they do not know.
        return Outcome("refused", message=last_line(error))
    shapes = []
    for number, array in enumerate(inputs):
        np.ascontiguousarray(array).tofile(out / ARGUMENTS.format(number))
        shapes.append((str(array.dtype), *array.shape))
    lines = [*shapes, ("result", *kernels.result_shape(function))]
    (out / "shapes").write_text("\n".join(" ".join(map(str, line)) for line in lines), encoding="utf-8")
    return Outcome("good")


def _build_module(request: Request, out: Path, link: Any) -> Outcome:
    """Builds a module that has its schedule."""
    import tvm

    from ddimcache.compiler.target import profile

    try:
        module = tvm.ir.load_json(Path(request.inputs).read_text(encoding="utf-8"))
        library = tvm.compile(module, target=profile(request.target).tvm_target(request.host))
        library.export_library(str(out / LIBRARY), fcompile=link)
    except MemoryError:
        raise
    except Exception as error:  # as above: a trace may lead the code generator to any error
        return Outcome("refused", message=last_line(error))
    return Outcome("good")


def _read(folder: Path) -> Built:
    *inputs, result = [line.split() for line in (folder / "shapes").read_text(encoding="utf-8").splitlines()]
    library = _sum_of(folder / LIBRARY)
    files = {library: folder / LIBRARY}
    arguments = []
    for number, (dtype, *shape) in enumerate(inputs):
        path = folder / ARGUMENTS.format(number)
        arguments.append(_array(path, tuple(map(int, shape)), dtype))
        files[arguments[-1].sha256] = path
    return Built(TrialKernel(library, tuple(arguments), tuple(map(int, result[1:]))), files)


def _array(path: Path, shape: tuple[int, ...], dtype: str) -> TrialArray:
    return TrialArray(_sum_of(path), shape, dtype)  # type: ignore[arg-type]


def _sum_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _remove(future: Future[Built | Outcome]) -> None:
    """Removes the files of a candidate that was built."""
    if future.done() and future.exception() is None and isinstance(built := future.result(), Built):
        shutil.rmtree(next(iter(built.files.values())).parent, ignore_errors=True)
