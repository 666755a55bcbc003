"""The pool: jobs shared among servers, none lost with a server, none done twice, none tried for ever."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from ddimcache.errors import DdimcacheError, DeviceError, RemoteError, UsageError
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest, run_image
from ddimcache.runtime.pool import Job, Pool
from ddimcache.runtime.pool_devices import LocalServer, OneServer, TrackedDevices
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.result_log import ResultLog
from ddimcache.runtime.rpc import parse_address
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.running_server import RunningServer, RunningTracker


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    servers = [RunningServer(tmp_path_factory.mktemp("store")) for _ in range(2)]
    yield servers
    for server in servers:
        code, log = server.stop()
        assert code == 0, log


@pytest.fixture
def sources(servers):
    return [OneServer(parse_address(server.address)) for server in servers]


@pytest.fixture
def log(tmp_path):
    log = ResultLog(tmp_path / "results.jsonl")
    yield log
    log.close()


def numbered(work, count=10):
    return [Job(f"job {number}", partial(work, number=number)) for number in range(count)]


def square(worker, number):
    worker.device.call("close", {})  # a call over the network
    time.sleep(0.02)
    return number * number


SQUARES = {f"job {number}": number * number for number in range(10)}


def test_shared_among_devices(sources, log):
    report = Pool(sources).run(numbered(square), log, SilentProgress())
    assert report.results == SQUARES
    assert len(report.by_device) == 2
    assert sum(report.by_device.values()) == 10
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert {line["job"]: line["result"] for line in lines} == SQUARES
    assert all(line["attempts"] == 1 and line["seconds"] > 0 for line in lines)


def test_a_second_run_does_what_is_missing(sources, log):
    Pool(sources).run(numbered(square, 4), log, SilentProgress())
    done = []

    def note(worker, number):
        done.append(number)
        return square(worker, number)

    report = Pool(sources).run(numbered(note), log, SilentProgress(), lambda result: result != 4)
    assert report.results == SQUARES
    assert sorted(done) == [2, 4, 5, 6, 7, 8, 9]
    assert report.taken_over == 3


def test_a_server_that_is_killed_loses_nothing(servers, sources, log):
    """Its client's process is killed in the middle of a job, again and again."""
    first = servers[0]
    killed = []

    def work(worker, number):
        result = square(worker, number)
        # Its first three jobs, whichever those are.
        if worker.device.address.port == first.port and len(killed) < 3:
            killed.append(number)
            child = first.client_process()
            os.kill(child, signal.SIGKILL)
            worker.device.call("close", {})
        return result

    report = Pool(sources).run(numbered(work), log, SilentProgress())
    assert report.results == SQUARES
    assert len(report.lost) == len(killed) > 0
    assert not report.failed


def test_a_device_that_hangs_is_left(sources, log):
    hung = set()
    release = threading.Event()

    def work(worker, number):
        if number == 3 and not hung:
            hung.add(worker.device.address.port)
            # what a server that computes for ever looks like from here
            deadline = time.monotonic() + 20
            while worker.device.is_open and time.monotonic() < deadline and not release.wait(0.1):
                worker.device.call("close", {})
        return square(worker, number)

    start = time.monotonic()
    report = Pool(sources, seconds_per_job=2.0).run(numbered(work), log, SilentProgress())
    assert report.results == SQUARES
    assert len(report.lost) == 1
    assert "was not done in 2 s" in report.lost[0]
    assert time.monotonic() - start < 18


class SlowToCome(OneServer):
    """A server that is connected to when the other has long been through its jobs."""

    def connect(self, seconds):
        time.sleep(1.5)
        return super().connect(seconds)


def test_a_job_that_fails_twice_is_reported(servers, log):
    tried = []

    def work(worker, number):
        if number == 5:
            tried.append(worker.device.address.port)
            raise DeviceError("the latents hold numbers that are not finite")
        if number == 6:
            raise ZeroDivisionError("a defect")
        return square(worker, number)

    sources = [
        kind(parse_address(each.address)) for kind, each in zip((OneServer, SlowToCome), servers, strict=True)
    ]
    report = Pool(sources).run(numbered(work), log, SilentProgress())
    assert report.results == {
        name: value for name, value in SQUARES.items() if name not in ("job 5", "job 6")
    }
    assert {each.identity: each.problem for each in report.failed} == {
        "job 5": "the latents hold numbers that are not finite",
        "job 6": "ZeroDivisionError: a defect",
    }
    assert len(set(tried)) == 2
    assert "job 5" not in log.results


def test_a_job_that_fails_on_the_only_device(sources, log):
    def work(worker, number):
        raise DeviceError("no")

    report = Pool(sources[:1]).run(numbered(work, 2), log, SilentProgress())
    assert [each.problem for each in report.failed] == ["no", "no"]


def test_a_job_that_kills_every_server_is_given_up(servers, sources, log):
    """Poison: whichever process answers it, dies."""

    def work(worker, number):
        if number == 2:
            server = next(each for each in servers if each.port == worker.device.address.port)
            child = server.client_process()
            os.kill(child, signal.SIGKILL)
            worker.device.call("close", {})
        return square(worker, number)

    report = Pool(sources).run(numbered(work, 5), log, SilentProgress())
    assert [each.identity for each in report.failed] == ["job 2"]
    assert len(report.results) == 4


def test_without_a_device(log, tmp_path):
    server = RunningServer(tmp_path / "store")
    source = OneServer(parse_address(server.address))
    server.kill()
    with pytest.raises(
        RemoteError, match=r"2 jobs are left and no device is: .*nobody listens.*run it again"
    ):
        Pool([source]).run(numbered(square, 2), log, SilentProgress())


def test_devices_of_a_tracker_that_come_and_go(log, tmp_path):
    tracker = RunningTracker()
    servers = [tracker.server(tmp_path / f"store{number}") for number in range(2)]
    tracker.wait_for([True, True])
    killed = threading.Event()

    def work(worker, number):
        if worker.device.address.port == servers[0].port and not killed.is_set():
            killed.set()
            servers[0].kill()
            worker.device.call("close", {})
        time.sleep(0.2)
        return square(worker, number)

    source = TrackedDevices(tracker.address, "lab")
    report = Pool([source]).run(numbered(work), log, SilentProgress())
    assert killed.is_set()
    assert report.results == SQUARES
    assert report.by_device == {f"rpc://127.0.0.1:{servers[1].port}": 10}
    assert servers[1].stop()[0] == 0
    assert tracker.stop()[0] == 0


def test_a_device_of_this_machine(log, fake_bundle):
    bundle = open_bundle(fake_bundle)
    request = ImageRequest([1] * fake.LENGTH, [2] * fake.LENGTH, 5, 10, 3, 7.5)

    def draw(worker, number):
        assert worker.session(bundle) is worker.session(bundle)
        return run_image(worker.session(bundle), request, SilentProgress()).drawn.latents.tobytes().hex()

    report = Pool([LocalServer("llvm")]).run(numbered(draw, 2), log, SilentProgress())
    expected = (
        run_image(Session(bundle, DeviceSpec("llvm")), request, SilentProgress())
        .drawn.latents.tobytes()
        .hex()
    )
    assert set(report.results.values()) == {expected}


class TestResultLog:
    def test_a_torn_line_is_cut_off(self, tmp_path):
        path = tmp_path / "results.jsonl"
        log = ResultLog(path)
        log.append("a", {"x": 1}, {"device": "d"})
        log.append_failure("b", "no", {})
        log.close()
        whole = path.read_bytes()
        for cut in range(1, 30):
            path.write_bytes(whole + b'{"job": "c", "result": "long enough to tear"}'[:cut])
            log = ResultLog(path)
            assert log.results == {"a": {"x": 1}}
            log.append("d", 2, {})
            log.close()
            assert [json.loads(line)["job"] for line in path.read_text().splitlines()] == ["a", "b", "d"]

    def test_whole_after_kills(self, tmp_path):
        path = tmp_path / "results.jsonl"
        code = (
            "import itertools, sys; from pathlib import Path\n"
            "sys.path.insert(0, sys.argv[2])\n"
            "from ddimcache.runtime.result_log import ResultLog\n"
            "log = ResultLog(Path(sys.argv[1]))\n"
            "start = len(log.results)\n"
            "for number in itertools.count(start):\n"
            "    log.append(str(number), 'x' * 10_000, {})\n"
            "    print(number, flush=True)\n"
        )
        last = -1
        for _ in range(3):
            with subprocess.Popen(
                [sys.executable, "-c", code, path, "."], stdout=subprocess.PIPE, text=True
            ) as process:
                for line in process.stdout:
                    last = int(line)
                    if last % 7 == 6:
                        process.kill()
        log = ResultLog(path)
        assert set(log.results) >= {str(number) for number in range(last + 1)}
        assert set(log.results) == {str(number) for number in range(len(log.results))}

    def test_one_run_at_a_time(self, log):
        with pytest.raises(UsageError, match="is being written by another run"):
            ResultLog(log.path)

    def test_something_else_is_left_alone(self, tmp_path):
        path = tmp_path / "notes.txt"
        path.write_text("my notes\n")
        with pytest.raises(UsageError, match="line 1 is no result; name another file"):
            ResultLog(path)
        assert path.read_text() == "my notes\n"

    def test_full_disk(self, tmp_path, monkeypatch):
        log = ResultLog(tmp_path / "results.jsonl")
        log.append("a", 1, {})
        write = os.write

        def fill_up(handle, content):
            monkeypatch.setattr(os, "write", no_room)
            return write(handle, content[:5])

        def no_room(handle, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", fill_up)
        with pytest.raises(DdimcacheError, match="cannot be written: No space left on device"):
            log.append("b", 2, {})
        monkeypatch.undo()
        log.close()
        assert ResultLog(tmp_path / "results.jsonl").results == {"a": 1}
