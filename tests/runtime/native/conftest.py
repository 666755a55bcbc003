"""Small programs of C++ around parts of the runtime, built once a session."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_SESSION = _HERE.parents[2] / "runtime/cc/session"


@pytest.fixture(scope="session")
def build_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Sequence[str]], Path]:
    """Returns a function that builds ``<name>.cc`` with sources of ``runtime/cc/session`` and sanitizers."""
    folder = tmp_path_factory.mktemp("programs")

    def build(name: str, sources: Sequence[str]) -> Path:
        command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror"]
        command += ["-Wno-restrict", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        command += [f"-I{_SESSION}", "-o", str(folder / name), str(_HERE / f"{name}.cc")]
        command += [str(_SESSION / source) for source in sources]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return folder / name

    return build
