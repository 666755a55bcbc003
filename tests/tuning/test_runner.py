"""Whatever a candidate does to its process, the tuner gets an outcome and goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ddimcache.kernels.workload import parse
from ddimcache.tuning import kernels
from ddimcache.tuning.runner import Runner

SMALL = parse("matmul 32x32x32 float32 int8")


def test_operands_without_room_are_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(kernels, "make_inputs", fail)
    with Runner("llvm", "llvm") as runner:
        outcome = runner.run(SMALL, {}, {})
    assert (outcome.status, "do not fit into" in outcome.message) == ("memory", True)


@pytest.fixture
def children(request: pytest.FixtureRequest) -> Iterator[Runner]:
    """A runner whose child is the Python program of the test's parameter."""
    program, options = request.param
    with Runner("llvm", "llvm", command=(sys.executable, "-c", program), **options) as runner:
        yield runner


def writes(text: str) -> str:
    """A program that leaves ``text`` as its result."""
    return f"import sys; open(sys.argv[2], 'w').write({text!r})"


FAKES = [
    ("import time; time.sleep(600)", {"seconds": 0.5}, "hung", "ended after 0.5 s"),
    ("import os; os.abort()", {}, "crashed", "ended by SIGABRT"),
    ("import os; os.kill(os.getpid(), 11)", {}, "crashed", "ended by SIGSEGV"),
    ("print('lost'); raise SystemExit(3)", {}, "crashed", "ended with 3; lost"),
    ("pass", {}, "crashed", "left no result that can be read"),
    ("import sys; open(sys.argv[2], 'w').write('{')", {}, "crashed", "left no result that can be read"),
    ("import sys; open(sys.argv[2], 'w').write('[' * 9999)", {}, "crashed", "left no result"),
    ('import sys; open(sys.argv[2], "w").write(\'{"status": "best"}\')', {}, "crashed", "is none of"),
    (
        'import sys; open(sys.argv[2], "w").write(\'{"status": "good", "seconds": NaN}\')',
        {},
        "crashed",
        "NaN",
    ),
    ("import sys; open(sys.argv[2], 'wb').write(b'\\xff')", {}, "crashed", "left no result"),
    ("import sys; open(sys.argv[2], 'w').write(' ' * (1 << 20))", {}, "crashed", "ended with 0"),
    ("bytearray(1 << 60)", {}, "memory", "MemoryError"),
    (
        "import sys, ddimcache.tuning.child as c\n"
        "c.run = lambda request: bytearray(1 << 33)\n"
        "c.main(sys.argv[1:])",
        {"memory": 4 << 30},
        "memory",
        "MemoryError",
    ),
]


@pytest.mark.parametrize(
    ("children", "status", "message"),
    [((program, options), status, message) for program, options, status, message in FAKES],
    indirect=["children"],
)
def test_a_bad_child_is_an_outcome(children: Runner, status: str, message: str) -> None:
    outcome = children.run(SMALL, {}, {})
    assert (outcome.status, outcome.ratio) == (status, None)
    assert message in outcome.message


@pytest.mark.parametrize("children", [("pass", {})], indirect=True)
def test_the_result_of_an_earlier_trial_is_not_taken_again(children: Runner) -> None:
    children.command = (
        sys.executable,
        "-c",
        'import sys; open(sys.argv[2], "w").write(\'{"status": "good"}\')',
    )
    assert children.run(SMALL, {}, {}).status == "good"
    children.command = (sys.executable, "-c", "pass")
    assert children.run(SMALL, {}, {}).status == "crashed"


def test_what_a_hung_child_started_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    with Runner("llvm", "llvm", command=(sys.executable, "-c", program), seconds=3) as runner:
        assert runner.run(SMALL, {}, {}).status == "hung"
    pid = int(note.read_text())
    for _ in range(100):
        # Ended, though nobody may have asked for its status yet.
        if not Path(f"/proc/{pid}/stat").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    os.kill(pid, 9)
    raise AssertionError("the child of a hung trial is still there")


def test_a_candidate_is_checked_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Runner("llvm", "llvm") as runner:
        good = runner.run(SMALL, {"blocks.rows": 16}, {}, repeats=2)
        assert (good.status, good.message) == ("good", "")
        assert good.ratio is not None
        assert good.error is not None
        assert good.error < 1e-5
        refused = runner.run(SMALL, {"blocks.strip": 0}, {})
        assert refused.status == "refused"
        assert "modulo by zero" in refused.message
    exact = kernels.expected
    monkeypatch.setattr(kernels, "expected", lambda *arguments: exact(*arguments) * 1.001)
    with Runner("llvm", "llvm") as runner:
        wrong = runner.run(SMALL, {}, {})
    assert (wrong.status, wrong.seconds) == ("wrong", None)
    assert wrong.error == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize(
    "text",
    [
        "matmul 33x32x48 float32 int8",
        "matmul 1x32x48 float32 float32",
        "matmul 7x20x12 float32 int8",
        "matmul 17x64x32 float32 int8g32",
        "geglu 19x32x128 float32 int8",
        "geglu 19x64x128 float32 int8g16",
        "matmul 33x32x48 int8 int8",
        "geglu 19x64x128 int8 int8g32",
        "conv2d 1x9x7x32x32x3x3x1x1 float32 int8",
        "conv2d 2x6x5x4x16x3x3x1x1 float32 float32",
        "conv2d 1x6x4x16x3x3x3x1x1 float32 int8",
        "conv2d 1x5x4x16x32x3x3x2x2 float32 int8",
        "conv2d 1x9x7x32x32x3x3x1x1 float32 int8g16",
        "attention 2x37x41x2x20 float32 none",
        "attention 2x37x41x2x20 bfloat16 none",
    ],
)
def test_any_decisions_give_the_references_answer(text: str) -> None:
    import dataclasses

    import tvm

    from ddimcache.compiler.target import profile
    from tests.kit.tuning import other_decisions

    workload, base = parse(text), profile("llvm")
    arrays = kernels.make_inputs(workload, seed=1)
    right = kernels.expected(workload, arrays)
    for seed in (1, 2):
        decisions = other_decisions(base.tiles, workload, seed)
        device = dataclasses.replace(base, tuned={workload: decisions})
        inputs = kernels.arguments(workload, device, arrays)
        function = kernels.kernel_of(workload, device, inputs)
        shape = kernels.result_shape(function)
        out = tvm.runtime.tensor(np.full(shape, np.nan, "float32"), tvm.cpu())
        kernels.build(function, device)["main"](*(tvm.runtime.tensor(array) for array in inputs), out)
        error = np.abs(out.numpy().reshape(right.shape) - right).max() / np.abs(right).max()
        assert error < (1e-2 if workload.dtype == "bfloat16" else 1e-5), decisions
