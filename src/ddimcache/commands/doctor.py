"""``ddimcache doctor``: what is there, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ddimcache.commands.terminal import bytes_text, print_json, say

EXAMPLES = """
  ddimcache doctor

  ddimcache doctor --json | jq '.checks[] | select(.state != "ok")'
"""

State = Literal["ok", "missing", "wrong"]
_LEAST_DISK = 10 * 10**9


@dataclass(frozen=True)
class Check:
    """One finding. ``needed_for`` is empty for what everything needs; only such a check makes doctor fail."""

    name: str
    state: State
    found: str
    remedy: str = ""
    needed_for: str = ""


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """Check this machine and say what to do about what is missing.

    Exits with 1 when something is missing that every command needs.
    """
    checks = list(run_checks())
    failed = [check for check in checks if check.state != "ok" and not check.needed_for]
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            mark = {"ok": "ok     ", "missing": "missing", "wrong": "wrong  "}[check.state]
            print(f"{mark}  {check.name}: {check.found}")
            if check.state != "ok":
                purpose = f"for {check.needed_for}: " if check.needed_for else ""
                print(f"         → {purpose}{check.remedy}")
        missing = sum(check.state != "ok" for check in checks)
        say(f"\n{len(checks)} checks, {missing} with something to do" if missing else "\neverything is there")
    if failed:
        raise typer.Exit(1)


def run_checks() -> Iterator[Check]:
    """Yield every check, none of which raises."""
    for check in (
        _python,
        _pins,
        _plugin,
        _opencl,
        _compile_packages,
        _linkers,
        _cache,
        _embedded_model,
    ):
        yield from check()


def _python() -> Iterator[Check]:
    state: State = "ok" if sys.version_info >= (3, 11) else "wrong"
    found = f"{platform.python_version()} on {platform.machine()}"
    yield Check("Python", state, found, "install Python 3.11 or newer")


def _requirements(extra: str | None) -> Iterator[tuple[str, str]]:
    """Yield (package, exact version or empty) of what the installed package says that it needs."""
    try:
        lines = importlib.metadata.requires("ddimcache") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement, _, marker = line.partition(";")
        of_extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", marker)
        match = re.match(r"\s*([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*(?:==([^,\s]+))?", requirement)
        if (of_extra[1] if of_extra else None) == extra and match and match[1] != "ddimcache":
            yield match[1], match[2] or ""


def _installed(package: str, pinned: str, remedy: str, needed_for: str) -> Check:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Check(package, "missing", "not installed", remedy, needed_for)
    if pinned and version.split("+")[0] != pinned:
        exact = f"pip install {package}=={pinned}"
        return Check(package, "wrong", f"{version}, tested with {pinned} only", exact, needed_for)
    return Check(package, "ok", version, needed_for=needed_for)


def _pins() -> Iterator[Check]:
    requirements = list(_requirements(None))
    if not requirements:
        yield Check("ddimcache", "missing", "runs from a folder, not installed", "pip install -e .")
    for package, pinned in requirements:
        yield _installed(package, pinned, "pip install ddimcache", "")


def _plugin() -> Iterator[Check]:
    from ddimcache.runtime import plugin

    try:
        import tvm
    except Exception as error:  # an import can fail in any way, and the reason is what this command is for
        yield Check(
            "TVM", "wrong", f"{type(error).__name__}: {error}", "pip install --force-reinstall apache-tvm"
        )
        return
    yield Check("TVM", "ok", f"imported from {Path(str(tvm.__file__)).parent}")
    problem = plugin.problem()
    remedy = "pip install --no-build-isolation -e . (needs a C++20 compiler), or install the wheel"
    if problem is None:
        yield Check("OpenCL plug-in", "ok", str(plugin.library_path()), needed_for="OpenCL devices")
    else:
        yield Check("OpenCL plug-in", "missing", problem, remedy, "OpenCL devices")


def _opencl() -> Iterator[Check]:
    from ddimcache.runtime.devices import WHAT_TO_INSTALL, describe_missing, list_devices, opencl_library

    try:
        missing = describe_missing()
        if missing is not None:
            yield Check("OpenCL devices", "missing", missing, WHAT_TO_INSTALL, "OpenCL devices")
            return
        yield Check("OpenCL library", "ok", str(opencl_library()), needed_for="OpenCL devices")
        for info in list_devices():
            half = "fp16" if info.fp16 else "no fp16"
            images = "images" if info.images else "no images"
            found = f"{info.name}, {info.platform}, {half}, {images}, {bytes_text(info.global_mem_bytes)}"
            yield Check(info.device, "ok", found, needed_for="OpenCL devices")
            for hazard in info.hazards:
                known = f"{hazard.problem}; {hazard.handling}"
                yield Check(f"{info.device} {hazard.name}", "ok", known, needed_for="OpenCL devices")
    except RuntimeError as error:
        yield Check("OpenCL devices", "missing", str(error), "see the plug-in above", "OpenCL devices")


def _compile_packages() -> Iterator[Check]:
    for package, pinned in _requirements("compile"):
        yield _installed(package, pinned, "pip install 'ddimcache[compile]'", "compiling models")


def _linkers() -> Iterator[Check]:
    from ddimcache.compiler.linker import HOSTS, find_linker
    from ddimcache.errors import CompileError

    for host in HOSTS:
        native = host == f"{platform.machine()}-linux-gnu"
        purpose = "compiling models" if native else f"--host {host}"
        try:
            yield Check(f"linker for {host}", "ok", find_linker(host).path, needed_for=purpose)
        except CompileError as error:
            yield Check(f"linker for {host}", "missing", error.what, error.remedy or "", purpose)


def _cache() -> Iterator[Check]:
    from ddimcache.compiler.cache import CACHE_VARIABLE, cache_folder

    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    remedy = f"set {CACHE_VARIABLE} to a folder that can be written"
    if not _writable(existing):
        yield Check(
            "cache folder", "wrong", f"{folder} cannot be written", remedy, "generate from a model folder"
        )
        return
    bundles = [path for path in (folder / "bundles").glob("*") if path.is_dir()]
    kept = f"{folder}, {len(bundles)} compiled models"
    yield Check("cache folder", "ok", kept, needed_for="generate from a model folder")
    free = shutil.disk_usage(existing).free
    state: State = "ok" if free >= _LEAST_DISK else "wrong"
    remedy = (
        f"a compilation of full size needs about {bytes_text(_LEAST_DISK)}: remove old bundles, or {remedy}"
    )
    yield Check("disk space", state, f"{bytes_text(free)} free", remedy, "compiling models of full size")


def _writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _embedded_model() -> Iterator[Check]:
    from ddimcache.commands.choose import DEFAULT_MODEL

    there = (DEFAULT_MODEL / "model_index.json").is_file()
    state: State = "ok" if there else "missing"
    yield Check(
        "embedded model", state, str(DEFAULT_MODEL), "install the wheel again", "generate without --model"
    )
