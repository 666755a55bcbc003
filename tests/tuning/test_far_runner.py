"""Tuning on devices behind RPC: what candidates and devices do is an outcome, and the search goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddimcache.compiler.target import profile
from ddimcache.errors import RemoteError, UsageError
from ddimcache.kernels.workload import parse
from ddimcache.runtime.pool_devices import OneServer, TrackedDevices
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import Address, RemoteDevice, parse_address
from ddimcache.runtime.trial import Outcome
from ddimcache.tuning.far_devices import FarDevice, FarDevices
from ddimcache.tuning.far_runner import FarRunner
from ddimcache.tuning.tuner import TRIALS, Task, Tuner
from tests.fakes.direct_calls import INFO
from tests.fakes.running_server import RunningServer, RunningTracker
from tests.fakes.trial_kernels import BUILDER, KINDS, write_library
from tests.kit.tuning import write_folder

PRODUCT = parse("matmul 32x32x32 float32 float32")
GROUPS = {"wrong": 2, "aborts": 4, "good": 8, "slow": 16, "hangs": 32, "refused": 0}


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("libraries")
    for kind in KINDS:
        write_library(kind, folder / f"{kind}.so")
    return sys.executable, "-c", BUILDER, str(folder)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningTracker, list[RunningServer]]]:
    tracker = RunningTracker()
    servers = [tracker.server(tmp_path_factory.mktemp("store")) for _ in range(2)]
    tracker.wait_for([True, True])
    yield tracker, servers
    for running in (*servers, tracker):
        running.stop()


def far(*sources: Any, builder: tuple[str, ...], seconds: float = 20) -> FarRunner:
    return FarRunner("llvm", FarDevices(sources, delay=0.05), command=builder, seconds=seconds)


def one(server: RunningServer) -> OneServer:
    return OneServer(parse_address(server.address))


def run(runner: FarRunner, kind: str) -> Outcome:
    return runner.run(PRODUCT, {"blocks.groups": GROUPS[kind]}, {})


def test_every_outcome_and_the_device_goes_on(servers: Any, builder: tuple[str, ...]) -> None:
    runner = far(one(servers[1][0]), builder=builder, seconds=1.5)
    with runner:
        assert run(runner, "good").status == "good"
        found = {kind: run(runner, kind) for kind in GROUPS if kind != "slow"}
        assert {kind: outcome.status for kind, outcome in found.items()} == {
            "good": "good",
            "wrong": "wrong",
            "aborts": "crashed",
            "hangs": "hung",
            "refused": "refused",
        }
        assert found["refused"].message == "no such tiles"
        assert "SIGABRT" in found["aborts"].message
        assert found["hangs"].seconds is None
        assert found["good"].ratio is not None
    runner.devices.close()


def test_a_server_that_is_killed_in_a_trial_loses_nothing(
    tmp_path: Path, servers: Any, builder: tuple[str, ...]
) -> None:
    doomed = RunningServer(tmp_path / "store")
    runner = far(one(doomed), one(servers[1][0]), builder=builder)
    with runner:
        assert run(runner, "good").status == "good"  # on the first
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(run(runner, "slow")))
        thread.start()
        client = doomed.client_process()
        trials = Path(f"/proc/{client}/task/{client}/children")
        deadline = time.monotonic() + 20
        while not trials.read_text().split():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        doomed.kill()
        thread.join(60)
        assert [outcome.status for outcome in outcomes] == ["good"]
        assert run(runner, "good").status == "good"
    runner.devices.close()


def test_a_candidate_that_takes_two_connections_down_is_an_outcome(
    servers: Any, builder: tuple[str, ...]
) -> None:
    server = servers[1][0]
    runner = far(one(server), builder=builder)
    stopped = threading.Event()

    def kill_clients() -> None:
        while not stopped.is_set():
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
            for client in children.split():
                if Path(f"/proc/{client}/task/{client}/children").read_text().strip():  # in a trial
                    os.kill(int(client), signal.SIGKILL)
            time.sleep(0.01)

    with runner:
        killer = threading.Thread(target=kill_clients)
        killer.start()
        try:
            outcome = run(runner, "hangs")
        finally:
            stopped.set()
            killer.join()
        assert (outcome.status, outcome.seconds) == ("crashed", None)
        assert "devices were lost with it" in outcome.message
        assert run(runner, "good").status == "good"
    runner.devices.close()


def test_several_devices_of_a_tracker_share_a_search(
    tmp_path: Path, servers: Any, builder: tuple[str, ...]
) -> None:
    tracker, _ = servers
    folder = write_folder(tmp_path / "log", "llvm", [])
    runner = far(TrackedDevices(tracker.address, "lab"), builder=builder, seconds=1.5)
    used: set[str] = set()

    def note(device: FarDevice) -> str:
        used.add(str(device.device.address))
        return "here"

    runner.trials.origin_of = note
    with runner:
        assert runner.width == 3
        [result] = Tuner(folder, profile("llvm"), runner).tune([Task(PRODUCT)], 12, SilentProgress())
    runner.devices.close()
    assert result.trials == 12
    assert len(used) == 2
    lines = [json.loads(line) for line in (folder / TRIALS).read_text().splitlines()]
    assert {line["outcome"]["origin"] for line in lines if line["outcome"]["status"] != "refused"} == {"here"}
    tracker.wait_for([True, True])  # given back


def test_no_device_left_is_said_and_the_search_goes_on_later(
    tmp_path: Path, builder: tuple[str, ...]
) -> None:
    folder = write_folder(tmp_path / "log", "llvm", [])
    server = RunningServer(tmp_path / "store")
    runner, ran = far(one(server), builder=builder, seconds=1.0), []
    first = runner.run

    def run_and_kill(*arguments: Any, **options: Any) -> Outcome:
        ran.append(arguments)
        if len(ran) == 4:
            server.kill()
        return first(*arguments, **options)

    runner.run = run_and_kill  # type: ignore[method-assign]
    with runner, pytest.raises(RemoteError, match=r"no device is left: .*nobody listens"):
        Tuner(folder, profile("llvm"), runner).tune([Task(PRODUCT)], 10, SilentProgress())
    kept = len((folder / TRIALS).read_text().splitlines())
    assert 2 <= kept <= 5
    again = RunningServer(tmp_path / "store", port=server.port)
    runner = far(one(again), builder=builder, seconds=1.0)
    with runner:
        [result] = Tuner(folder, profile("llvm"), runner).tune([Task(PRODUCT)], 10, SilentProgress())
    runner.devices.close()
    assert result.trials == 10
    again.stop()


def test_a_client_that_is_killed_goes_on(tmp_path: Path, servers: Any, builder: tuple[str, ...]) -> None:
    folder = write_folder(tmp_path / "log", "llvm", [])
    server = servers[1][0]
    program = (
        "import os, sys, threading\nfrom pathlib import Path\nfrom tests.tuning.test_far_runner import *\n"
        "def die():\n"
        "    path = Path(sys.argv[1]) / TRIALS\n"
        "    while not path.exists() or path.read_bytes().count(b'\\n') < 3: time.sleep(0.01)\n"
        "    os.kill(os.getpid(), 9)\n"
        "threading.Thread(target=die).start()\n"
        "runner = far(OneServer(parse_address(sys.argv[2])), builder=tuple(sys.argv[3:]), seconds=1.0)\n"
        "with runner:\n"
        "    tuner = Tuner(Path(sys.argv[1]), profile('llvm'), runner)\n"
        "    tuner.tune([Task(PRODUCT)], 30, SilentProgress())\n"
    )
    command = [sys.executable, "-c", program, str(folder), server.address, *builder]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    before = len((folder / TRIALS).read_text().splitlines())
    assert before >= 3
    runner = far(one(server), builder=builder, seconds=1.0)
    with runner:
        tuner = Tuner(folder, profile("llvm"), runner)
        assert tuner.skipped == []
        [result] = tuner.tune([Task(PRODUCT)], 8, SilentProgress())
    runner.devices.close()
    assert result.trials == 8


class _Lying:
    """A server that answers what it likes."""

    grows = False

    def __init__(self, **answers: Any) -> None:
        self.answers = {"describe": {"driver": "a driver"}, "trial_files": [], **answers}

    def count(self) -> int:
        return 1

    def connect(self, seconds: float) -> RemoteDevice:
        info = dataclasses.replace(INFO, host="x86_64-linux-gnu")
        device = RemoteDevice(Address("here", 1, "k"), info, object())
        device.call = lambda method, arguments, body=b"": (self.answers[method], b"")  # type: ignore
        return device

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"describe": []}, "sent a description that cannot be read"),
        ({"describe": {"driver": 7}}, "sent a description that cannot be read"),
        ({"trial_files": [["0" * 64, 0]]}, "sent a list of files that cannot be read"),
        ({"trial_files": 7}, "sent a list of files that cannot be read"),
        ({"trial": {"status": "best"}}, "sent an outcome that cannot be read"),
        ({"trial": {"status": "good", "seconds": -1}}, "sent an outcome that cannot be read"),
        ({"trial": None}, "sent an outcome that cannot be read"),
        ({"trial": {"status": "good", "message": "x" * 5000}}, "sent an outcome that cannot be read"),
    ],
)
def test_a_server_that_answers_nonsense_is_left(
    builder: tuple[str, ...], answers: dict[str, Any], message: str
) -> None:
    runner = far(_Lying(**answers), builder=builder)
    with runner, pytest.raises(RemoteError, match=message):
        run(runner, "good")


def test_what_a_server_calls_itself_is_not_what_a_record_calls_it(builder: tuple[str, ...]) -> None:
    answer = {"status": "good", "seconds": 1.0, "rival_seconds": 2.0, "error": 0.0, "origin": "../x"}
    runner = far(_Lying(trial=answer), builder=builder)
    runner.trials.origin_of = lambda device: device.driver
    with runner:
        assert run(runner, "good").origin == "a driver"


def test_a_device_that_is_not_wanted_is_left() -> None:
    def refuse(device: FarDevice) -> None:
        raise UsageError("is another device", where="here")

    devices = FarDevices([_Lying()], refuse, delay=0.01)
    with pytest.raises(RemoteError, match=r"no device is left: .*is another device"), devices.lend():
        pass
