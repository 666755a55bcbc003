"""The example without Python draws the picture of ``ddimcache generate``, pixel for pixel."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddimcache.runtime import plugin
from tests.kit.family import stand_in
from tests.kit.shared_bundles import compiled

_PROJECT = Path(__file__).parents[3]


def library(package: str, name: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "lib" / name


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, linked with the installed library as CMakeLists.txt does."""
    program = tmp_path_factory.mktemp("examples") / "draw"
    libraries = [
        plugin.library_path().absolute(),
        library("tvm", "libtvm_runtime.so"),
        library("tvm_ffi", "libtvm_ffi.so"),
    ]
    command = [
        os.environ.get("CXX", "g++"),
        "-std=c++20",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-restrict",
    ]
    command += [
        f"-I{_PROJECT / 'runtime/cc/session'}",
        str(_PROJECT / "examples/draw.cc"),
        "-o",
        str(program),
    ]
    command += ["-Wl,--no-as-needed", *map(str, libraries)]
    command += [f"-Wl,-rpath,{found.parent}" for found in libraries]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "libpython" not in subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    return program


@pytest.fixture(scope="module")
def bundle() -> Path:
    return compiled(stand_in("tiny-sd15"), target="llvm").folder


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True)


def test_the_picture_is_that_of_generate(draw: Path, bundle: Path, tmp_path: Path) -> None:
    prompt, options = "a red cat, très jolie!", ["--seed", "5", "--steps", "6", "--cache-interval", "3"]
    options += ["--guidance", "4", "--negative-prompt", "blue", "--device", "llvm"]
    done = run(draw, bundle, prompt, tmp_path / "ours.png", *options)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "ddimcache.cli", "generate", prompt, "--model", str(bundle)]
    subprocess.run([*command, *options, "-o", str(tmp_path / "theirs.png")], check=True, capture_output=True)
    with Image.open(tmp_path / "ours.png") as ours, Image.open(tmp_path / "theirs.png") as theirs:
        assert ours.size == (32, 32)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
        assert np.asarray(ours).std() > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "draw: expected BUNDLE, PROMPT and OUT.png"),
        (("b", "p", "o.png", "--steps"), 2, "--steps: has no value"),
        (("b", "p", "o.png", "--steps", "5x"), 2, "--steps: '5x' is no number for it"),
        (("b", "p", "o.png", "--width", "5"), 2, "--width: is no option of this program"),
        (("b", "p", "o.png", "--size", "5"), 2, "--size: '' is no number for it"),
        (("no-such-folder", "p", "o.png"), 1, "no-such-folder"),
    ],
)
def test_mistakes_are_named(draw: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = run(draw, *arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_a_picture_that_cannot_be_written_is_told(draw: Path, bundle: Path) -> None:
    done = run(draw, bundle, "p", "/proc/no.png", "--steps", "1", "--device", "llvm")
    assert done.returncode == 2
    assert "/proc/no.png: cannot be written" in done.stderr
