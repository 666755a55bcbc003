"""Links a component's objects into a library that takes nothing from the machine that builds it.

Only a linker is needed, no compiler and no C library of the host: nothing is linked in but the objects. A
library therefore has no start-up code of a C library and no symbol versions; it asks for functions of TVM's
runtime, which the process that loads it has loaded before, and, where the kernels are host code, for a few of
the host's C library, by their plain names.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddimcache.compiler.elf import MACHINE_AARCH64, MACHINE_X86_64, SharedLibrary, read_shared_library
from ddimcache.errors import CompileError

NDK_VARIABLES = ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")
_NDK_LINKER = "toolchains/llvm/prebuilt/*/bin/ld.lld"
_LLD_VERSIONS = range(30, 12, -1)

_RUNTIME_PREFIXES = ("TVMFFI", "TVMBackend")
_MEMORY_FUNCTIONS = frozenset({"memcpy", "memmove", "memset"})
_MATH_FUNCTIONS = frozenset(
    name + suffix
    for name in (
        *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos"),
        *("cosh", "erf", "erfc", "exp", "exp2", "expm1", "fabs", "floor", "fma", "fmax", "fmin", "fmod"),
        *("hypot", "ldexp", "log", "log10", "log1p", "log2", "nearbyint", "nextafter", "pow", "rint"),
        *("round", "sin", "sinh", "sqrt", "tan", "tanh", "tgamma", "trunc"),
    )
    for suffix in ("", "f")
)


@dataclass(frozen=True)
class Host:
    """A machine that runs host code, as a linker sees it."""

    machine: int
    """ELF's number of the processor."""
    architecture: str
    emulation: str
    """The linker's name of the output format."""
    page_bytes: int
    """The largest page with which a kernel of that host maps memory; Android's new ones have 16 KiB."""
    c_library: str
    math_library: str
    binutils: str
    """GNU's linker for the host, on another machine."""
    install: str


_GNU = {"c_library": "libc.so.6", "math_library": "libm.so.6"}
HOSTS = {
    "x86_64-linux-gnu": Host(
        **_GNU,
        machine=MACHINE_X86_64,
        architecture="x86_64",
        emulation="elf_x86_64",
        page_bytes=4096,
        binutils="x86_64-linux-gnu-ld",
        install="install lld, or binutils (g++ brings it)",
    ),
    "aarch64-linux-gnu": Host(
        **_GNU,
        machine=MACHINE_AARCH64,
        architecture="aarch64",
        emulation="aarch64linux",
        page_bytes=65536,
        binutils="aarch64-linux-gnu-ld",
        install="install lld, or g++-aarch64-linux-gnu",
    ),
    "aarch64-linux-android": Host(
        machine=MACHINE_AARCH64,
        architecture="aarch64",
        emulation="aarch64linux",
        page_bytes=16384,
        c_library="libc.so",
        math_library="libm.so",
        binutils="aarch64-linux-gnu-ld",
        install=f"set {NDK_VARIABLES[0]} to the folder of an Android NDK, or install lld or "
        "g++-aarch64-linux-gnu",
    ),
}


@dataclass(frozen=True)
class Linker:
    """A linker for a host: LLVM's or GNU's, which take the same options here."""

    path: str
    host: str

    def link(self, objects: Sequence[str], library: Path) -> SharedLibrary:
        """Link the object files into ``library`` and return what it asks of the loader.

        Raises :class:`CompileError` where the linker fails, or where the objects call a function that
        neither TVM's runtime nor the host's C library has.
        """
        host = HOSTS[self.host]
        self._link(objects, library)
        found = read_shared_library(library)
        names = {name for name in found.undefined if not name.startswith(_RUNTIME_PREFIXES)}
        if unknown := sorted(names - _MEMORY_FUNCTIONS - _MATH_FUNCTIONS):
            raise CompileError(
                f"calls {', '.join(unknown)}, which neither TVM's runtime nor the C library has",
                where=library.name,
            )
        needed = [host.math_library] if names & _MATH_FUNCTIONS else []
        needed += [host.c_library] if names & _MEMORY_FUNCTIONS else []
        if needed:
            with tempfile.TemporaryDirectory(prefix="ddimcache-link-") as scratch:
                stand_ins = [str(self._stand_in(Path(scratch), name)) for name in needed]
                self._link([*objects, "--no-as-needed", *stand_ins], library)
            found = read_shared_library(library)
        _check(found, self.host, library)
        return found

    def compile_function(self) -> Any:
        """Return the function that TVM's ``export_library`` calls with the library's path and objects."""

        def link(library: str, objects: Sequence[str], options: object = None) -> None:
            self.link(objects, Path(library))

        with_triple: Any = link
        with_triple.get_target_triple = lambda: self.host
        return with_triple

    def _stand_in(self, folder: Path, name: str) -> Path:
        """Make an empty library of that name, so that the loader is told to load the real one."""
        data, object_file, library = folder / "data", folder / "data.o", folder / name
        data.write_bytes(b"\0")
        # In two steps: GNU's linker makes no dynamic section where no input is an object file.
        self._run(["-r", "--format=binary", str(data)], object_file)
        self._link([str(object_file)], library)
        return library

    def _link(self, inputs: Sequence[str], library: Path) -> None:
        options = ["-shared", "-soname", library.name, "--hash-style=gnu"]
        # Nothing is left to resolve when it is used, and debug information is not shipped.
        options += ["-z", f"max-page-size={HOSTS[self.host].page_bytes}", "-z", "relro", "-z", "now"]
        self._run([*options, "-z", "noexecstack", "--strip-all", *inputs], library)

    def _run(self, arguments: Sequence[str], output: Path) -> None:
        command = [self.path, "-m", HOSTS[self.host].emulation, "-o", str(output), *arguments]
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
        except OSError as error:
            raise CompileError(f"cannot be run: {error.strerror}", where=self.path) from error
        if done.returncode != 0:
            raise CompileError(
                f"cannot link {output.name} for {self.host}: {done.stdout.strip()[-2000:]}", where=self.path
            )


def find_linker(host: str) -> Linker:
    """Find a linker for ``host``: of the Android NDK, LLVM's ``ld.lld``, or GNU's for that machine.

    An NDK that ``ANDROID_NDK_HOME`` or ``ANDROID_NDK_ROOT`` names goes first for Android, and last for the
    others. Raises :class:`CompileError` that names what was looked for and what to install.
    """
    wanted = HOSTS[host]
    native = ["ld"] if platform.machine() == wanted.architecture else []
    lld = ["ld.lld", *(f"ld.lld-{version}" for version in _LLD_VERSIONS)]
    programs = [*native, wanted.binutils, *lld] if native else [*lld, wanted.binutils]
    ways: list[Callable[[], str | None]] = [lambda: _first_program(programs), _ndk_linker]
    if host.endswith("-android"):
        ways.reverse()
    for way in ways:
        if path := way():
            return Linker(path, host)
    names = ", ".join([*native, "ld.lld", wanted.binutils])
    raise CompileError(
        f"no linker for this host: none of {names} is on the PATH, and {NDK_VARIABLES[0]} is not set",
        where=host,
        remedy=wanted.install,
    )


def _first_program(names: Iterable[str]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


def _ndk_linker() -> str | None:
    """Path of the NDK's linker; raises :class:`CompileError` where a variable names a folder without one."""
    for variable in NDK_VARIABLES:
        if folder := os.environ.get(variable):
            found = sorted(path for path in Path(folder).glob(_NDK_LINKER) if os.access(path, os.X_OK))
            if not found:
                raise CompileError(
                    f"{folder} holds no {_NDK_LINKER}",
                    where=variable,
                    remedy="name the folder of an Android NDK, the one with `toolchains` in it",
                )
            return str(found[-1])
    return None


def _check(found: SharedLibrary, name: str, library: Path) -> None:
    """Hold a linker to what a library must be; a wrong one would show only when a phone loads it."""
    host = HOSTS[name]
    problems = []
    if found.machine != host.machine:
        problems.append(f"is for ELF machine {found.machine}, not {host.machine}")
    if found.page_bytes < host.page_bytes:
        problems.append(f"is aligned to pages of {found.page_bytes} bytes, not {host.page_bytes}")
    if found.versions:
        problems.append(f"asks for symbol versions {', '.join(sorted(found.versions))}")
    if problems:
        raise CompileError(f"{library.name} {'; '.join(problems)}", where=name)
