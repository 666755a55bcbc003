"""The Adreno lab from Python: compile a kernel for the Adreno 740, run a program with fp16 on llvmpipe.

The lab is a small Debian root that ``tests/lab/build_lab.sh`` makes (``make lab``). Two devices live in it:

- freedreno over a no-op kernel driver: the real compiler for the Adreno 740. It tells registers, waves,
  spills and the instructions of every loop, and executes nothing.
- llvmpipe: executes OpenCL C with ``cl_khr_fp16`` and images on the CPU. It checks numbers; its times mean
  nothing.

It is Mesa's compiler, not Qualcomm's: read its figures as ratios between versions of a kernel.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ddimcache.adreno.isa import KernelStatistics, parse_compiler_log
from ddimcache.errors import DdimcacheError

HERE = Path(__file__).resolve().parent
_SHIM = "/usr/lib/x86_64-linux-gnu/libfreedreno_noop_drm_shim.so"
_ICD = "/etc/OpenCL/vendors/rusticl.icd"


class LabError(DdimcacheError):
    """The lab is not there, or a kernel did not compile in it; the message holds the log."""


def lab_root() -> Path:
    """Folder of the lab: ``ADRENO_LAB``, else ``~/.cache/ddimcache/adreno-lab``."""
    if chosen := os.environ.get("ADRENO_LAB"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "ddimcache" / "adreno-lab"


def missing() -> str | None:
    """Why the lab cannot be used here, or None when it can."""
    root = lab_root()
    if not (root / "lab-ready").exists():
        return f"the Adreno lab is not in {root}: `make lab` builds it"
    if os.geteuid() != 0:
        return "the Adreno lab needs root, for chroot"
    return None


def available() -> bool:
    """Whether the lab can be used here."""
    return missing() is None


def require() -> Path:
    """The lab's folder; raises :class:`LabError` where it cannot be used."""
    if (reason := missing()) is not None:
        raise LabError(reason)
    return lab_root()


@cache
def identity() -> str:
    """A text that changes with the lab's compiler and with how it is asked.

    Raises :class:`LabError` where there is no lab.
    """
    root = require()
    package = root / "var" / "lib" / "dpkg" / "status"
    parts = [path.read_bytes() for path in (package, HERE / "wide_loads.cl", HERE / "compile_kernels.c")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _in_lab(
    arguments: Sequence[str], environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8", **environment}
    assignments = [f"{name}={value}" for name, value in variables.items()]
    command = ["nice", "-n", "10", "chroot", str(lab_root()), "/usr/bin/env", "-i", *assignments, *arguments]
    try:
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(arguments)} ran longer than {seconds:g} s in the Adreno lab") from error


def _host_program() -> str:
    """Path, inside the lab, of the compiled ``compile_kernels.c``; compiles it when the source changed."""
    source = HERE / "compile_kernels.c"
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    folder = lab_root() / "lab"
    program = folder / f"compile_kernels-{version}"
    if not program.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            inside = f"/lab/{Path(scratch).name}"
            (Path(scratch) / "source.c").write_bytes(source.read_bytes())
            compiler = ["gcc", "-O1", "-Wno-deprecated-declarations", "-o", f"{inside}/program"]
            done = _in_lab([*compiler, f"{inside}/source.c", "-lOpenCL"], {}, 120)
            if done.returncode != 0:
                raise LabError(f"compile_kernels.c does not compile in the Adreno lab:\n{done.stdout}")
            # another process may have been faster
            (Path(scratch) / "program").replace(program)
    return f"/lab/{program.name}"


def compile_for_adreno(
    source: str,
    local_size: tuple[int, int, int] | None = None,
    *,
    options: str = "",
    wide_loads: bool = True,
    chip: int = 740,
    seconds: float = 300,
) -> list[KernelStatistics]:
    """Compile OpenCL C for the Adreno 740 and return what the compiler says about each kernel.

    Parameters
    ----------
    source : OpenCL C with one or more kernels.
    local_size : work-group in x, y, z. Kernels without ``reqd_work_group_size`` get it as that, because
        occupancy depends on it; without ``local_size`` such kernels are compiled for any size.
    options : OpenCL build options.
    wide_loads : put ``wide_loads.cl`` in front, so that vector loads become vector loads.
    chip : Adreno model number; the lab also knows 630, 660, 730 and 750.
    seconds : time limit.

    Raises
    ------
    LabError
        The lab is not available, the source does not compile, or the time ran out; with the compiler's log.
    """
    log = compiler_log(source, local_size, options=options, wide_loads=wide_loads, chip=chip, seconds=seconds)
    return parse_compiler_log(log)


def compiler_log(
    source: str,
    local_size: tuple[int, int, int] | None = None,
    *,
    options: str = "",
    wide_loads: bool = True,
    chip: int = 740,
    seconds: float = 300,
) -> str:
    """What the compiler prints of ``source``; arguments, errors as of :func:`compile_for_adreno`."""
    root = require()
    program = _host_program()
    parts = [(HERE / "wide_loads.cl").read_text() if wide_loads else ""]
    if local_size is not None and "reqd_work_group_size" not in source:
        x, y, z = local_size
        parts.append(f"#define __kernel __attribute__((reqd_work_group_size({x}, {y}, {z}))) kernel\n")
    parts += ["#line 1\n", source]
    environment = {
        "OCL_ICD_VENDORS": _ICD,
        "RUSTICL_ENABLE": "freedreno",
        "FD_GPU_ID": str(chip),
        "LD_PRELOAD": _SHIM,
        "IR3_SHADER_DEBUG": "cs,disasm",
        # one compile at a time: parallel ones mix their reports
        "FD_MESA_DEBUG": "serialc",
        "MESA_SHADER_CACHE_DISABLE": "true",
    }
    with tempfile.TemporaryDirectory(dir=root / "lab") as scratch:
        (Path(scratch) / "kernel.cl").write_text("".join(parts))
        group = ",".join(str(side) for side in local_size or (0, 0, 0))
        arguments = [program, f"/lab/{Path(scratch).name}/kernel.cl", group, options]
        done = _in_lab(arguments, environment, seconds)
    if done.returncode != 0:
        kept = [line for line in done.stdout.splitlines() if not line.startswith("MESA: info:")]
        raise LabError(
            f"does not compile for Adreno {chip} (exit {done.returncode}):\n" + "\n".join(kept[-60:])
        )
    if "Native code" not in done.stdout:
        raise LabError(f"the compiler reported no kernel:\n{done.stdout[-2000:]}")
    return done.stdout


def run_on_llvmpipe(
    arguments: Sequence[str], *, environment: Mapping[str, str] | None = None, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a program inside the lab with llvmpipe as the only OpenCL device; paths are those inside the lab.

    Returns the finished process, whose ``stdout`` also holds the standard error.

    Raises
    ------
    LabError
        The lab is not available, or the time ran out. A failing program is the caller's to judge.
    """
    root = require()
    # llvmpipe counts cores in /sys, and Python needs /proc
    for name in ("proc", "sys"):
        if not os.path.ismount(root / name):
            subprocess.run(["mount", "--rbind", f"/{name}", str(root / name)], check=True)
    variables = {"RUSTICL_ENABLE": "llvmpipe", "OCL_ICD_VENDORS": _ICD, **(environment or {})}
    return _in_lab(arguments, variables, seconds)
