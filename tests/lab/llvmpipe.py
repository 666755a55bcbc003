"""Python with TVM and this project inside the Adreno lab, on llvmpipe: fp16 and images, executed.

The lab has a Python of its own, so TVM's wheels for that version are installed next to it once; the project's
Python files and the plug-in that the outer environment uses are copied in for every run.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ddimcache.adreno import lab as adreno_lab

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
PREAMBLE = """
import tvm
from ddimcache.runtime import plugin
plugin.load()
if plugin.problem() is not None:
    raise SystemExit(plugin.problem())
"""


def _packages() -> list[str]:
    """Requirements of the lab's Python: TVM in the versions that the outer environment has."""
    names = ("apache-tvm", "apache-tvm-ffi")
    return [f"{name}=={importlib.metadata.version(name)}" for name in names] + ["numpy>=2.1,<3"]


def _install_packages() -> str:
    """Install TVM for the lab's Python, once; returns the folder as the lab sees it."""
    packages = _packages()
    name = "site-" + "-".join(package.split("==")[-1] for package in packages[:2])
    target = adreno_lab.lab_root() / "lab" / name
    if not target.exists():
        found = adreno_lab.run_on_llvmpipe(
            ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        )
        scratch = Path(tempfile.mkdtemp(dir=target.parent))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(scratch)]
        command += ["--only-binary=:all:", "--python-version", found.stdout.strip()]
        command += [argument for platform in PLATFORMS for argument in ("--platform", platform)]
        done = subprocess.run([*command, *packages], capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(scratch)
            raise adreno_lab.LabError(f"pip cannot install TVM for the lab's Python:\n{done.stderr}")
        scratch.chmod(0o755)
        scratch.rename(target)
    return f"/lab/{name}"


def run_python(
    code: str,
    arguments: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    seconds: float = 600,
) -> subprocess.CompletedProcess[str]:
    """Run Python code in the lab with ``tvm``, ``numpy``, ``ddimcache`` and ``tests`` there, on llvmpipe.

    The plug-in is loaded and ``tvm`` imported before the code starts; ``opencl:0`` is llvmpipe, with
    ``cl_khr_fp16`` and images, unless ``environment`` says otherwise. Returns the finished process; its
    ``stdout`` also holds the standard error.

    Raises
    ------
    adreno_lab.LabError
        The lab is not available, TVM cannot be installed in it, or the time ran out.
    """
    if (reason := adreno_lab.missing()) is not None:
        raise adreno_lab.LabError(reason)
    from ddimcache.runtime import plugin

    packages = _install_packages()
    repository = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory(dir=adreno_lab.lab_root() / "lab") as folder:
        project = Path(folder)
        only_python = shutil.ignore_patterns("*.safetensors", "*.png", "*.so", "__pycache__", "cc")
        shutil.copytree(repository / "src" / "ddimcache", project / "ddimcache", ignore=only_python)
        shutil.copytree(repository / "tests", project / "tests", ignore=only_python)
        shutil.copy(plugin.library_path(), project / "plugin.so")
        (project / "program.py").write_text(PREAMBLE + code)
        inside = f"/lab/{project.name}"
        return adreno_lab.run_on_llvmpipe(
            ["python3", f"{inside}/program.py", *arguments],
            environment={
                "PYTHONPATH": f"{inside}:{packages}",
                "DDIMCACHE_PLUGIN": f"{inside}/plugin.so",
                **(environment or {}),
            },
            seconds=seconds,
        )
