"""Trials of a tuner behind RPC: whatever a candidate does, server and connection are there after it."""

import dataclasses
import hashlib
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ddimcache.errors import BundleError, DdimcacheError, DeviceError, RemoteError, UsageError
from ddimcache.records import from_json, to_json
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.rpc_protocol import pack, read_reply
from ddimcache.runtime.rpc_session_calls import SessionCalls
from ddimcache.runtime.rpc_store import Store
from ddimcache.runtime.rpc_trials import TrialArray, TrialKernel, TrialRequest
from ddimcache.runtime.trial import Outcome
from tests.fakes.direct_calls import direct_device
from tests.fakes.running_server import RunningServer
from tests.fakes.trial_kernels import KINDS, LENGTH, write_library
from tests.kit.mutation import mutated_value

NUMBERS = np.linspace(-1, 1, LENGTH, dtype=np.float32)


def sum_of(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries")
    found = {}
    for kind in KINDS:
        write_library(kind, folder / "main.so")
        found[kind] = (folder / "main.so").read_bytes()
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RunningServer(tmp_path_factory.mktemp("store"), options=["--store-bytes", "4M"])
    yield server
    code, log = server.stop()
    assert code == 0, log
    assert "Traceback" not in log
    assert list((server.store / "work").iterdir()) == []


@pytest.fixture
def device(server):
    device = connect(server.address, patience=20)
    yield device
    device.close()


def request_of(candidate, rival, **other):
    array = TrialArray(sum_of(NUMBERS.tobytes()), (LENGTH,), "float32")
    kernels = [TrialKernel(sum_of(library), (array,), (LENGTH,)) for library in (candidate, rival)]
    return TrialRequest(*kernels, array, "float32", 1e-4, 2, other.pop("seconds", 20.0), 0, **other)


def send(device, *contents):
    files = [{"sha256": sum_of(content), "bytes": len(content)} for content in contents]
    missing, _ = device.call("trial_files", {"files": files})
    by_sum = {sum_of(content): content for content in contents}
    for sha256, here in missing:
        device.call("trial_write", {"sha256": sha256, "offset": here}, by_sum[sha256][here:])
    return missing


def trial(device, candidate, rival, **other):
    send(device, candidate, rival, NUMBERS.tobytes())
    result, _ = device.call("trial", to_json(request_of(candidate, rival, **other)))
    return from_json(Outcome, result)


def test_a_candidate_is_checked_and_timed_over_there(device, libraries):
    outcome = trial(device, libraries["slow"], libraries["good"])
    assert (outcome.status, outcome.error, outcome.message) == ("good", 0.0, "")
    assert outcome.seconds > 0.25  # it sleeps in every call
    assert outcome.rival_seconds < 0.1


@pytest.mark.parametrize(
    ("kind", "change", "status", "message"),
    [
        ("wrong", {}, "wrong", "1 of the largest number away"),
        ("silent", {}, "wrong", "nan of the largest number away"),
        ("aborts", {}, "crashed", "ended by SIGABRT"),
        ("segfaults", {}, "crashed", "ended by SIGSEGV"),
        ("exits", {}, "crashed", "ended with 0"),
        ("hangs", {"seconds": 1.0}, "hung", "ended after 1 s"),
        ("good", {"memory": 1 << 20}, "memory", ""),
        ("good", {"rival": "aborts"}, "crashed", "ended by SIGABRT"),
    ],
)
def test_what_a_candidate_does_is_an_outcome(device, libraries, kind, change, status, message):
    rival = libraries[change.pop("rival", "good")]
    memory = change.pop("memory", 0)
    send(device, libraries[kind], rival, NUMBERS.tobytes())
    request = dataclasses.replace(request_of(libraries[kind], rival, **change), memory=memory)
    found = from_json(Outcome, device.call("trial", to_json(request))[0])
    assert (found.status, found.seconds) == (status, None)
    assert message in found.message
    # The same connection, the same device.
    assert trial(device, libraries["good"], libraries["good"]).status == "good"


def test_a_library_that_is_none_fails(device, libraries):
    outcome = trial(device, b"no library", libraries["good"])
    assert outcome.status == "failed"
    assert trial(device, libraries["good"], libraries["good"]).status == "good"


def test_what_is_there_is_not_sent_again_and_goes_with_the_client(server, device, libraries):
    good, slow = libraries["good"], libraries["slow"]
    assert {sha256 for sha256, _ in send(device, good, NUMBERS.tobytes())} == {
        sum_of(good),
        sum_of(NUMBERS.tobytes()),
    }
    assert send(device, slow, NUMBERS.tobytes()) == [[sum_of(slow), 0]]
    assert send(device, good, NUMBERS.tobytes()) == [[sum_of(good), 0]]
    [work] = (server.store / "work").iterdir()
    assert len(list((work / "trial").iterdir())) == 2
    device.close()
    connect(server.address, patience=20).close()
    deadline = time.monotonic() + 10
    while work.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_files_that_do_not_fit_are_refused(device, libraries):
    good = libraries["good"]
    names = {"sha256": sum_of(good), "bytes": len(good)}
    device.call("trial_files", {"files": [names]})
    with pytest.raises(BundleError, match="not among the files"):
        device.call("trial_write", {"sha256": "0" * 64, "offset": 0}, b"x")
    with pytest.raises(BundleError, match="came where 0 of"):
        device.call("trial_write", {"sha256": sum_of(good), "offset": 1}, b"x")
    with pytest.raises(BundleError, match="came where 0 of"):
        device.call("trial_write", {"sha256": sum_of(good), "offset": 0}, good + b"x")
    with pytest.raises(BundleError, match="arrived altered"):
        device.call("trial_write", {"sha256": sum_of(good), "offset": 0}, b"x" * len(good))
    with pytest.raises(UsageError, match="has not been sent"):
        device.call("trial", to_json(request_of(good, good)))
    device.call("trial_write", {"sha256": sum_of(good), "offset": 0}, good[:100])
    assert device.call("trial_files", {"files": [names]})[0] == [[sum_of(good), 100]]
    send(device, good, NUMBERS.tobytes())
    other = request_of(good, good)
    array = dataclasses.replace(other.expected, shape=(2 * LENGTH,))
    with pytest.raises(UsageError, match="has 4096 bytes, not 8192"):
        device.call("trial", to_json(dataclasses.replace(other, expected=array)))
    with pytest.raises(BundleError, match="two sizes"):
        device.call("trial_files", {"files": [names, {**names, "bytes": 7}]})
    with pytest.raises(DeviceError, match="bytes are needed"):
        device.call("trial_files", {"files": [{"sha256": "1" * 64, "bytes": 1 << 30}]})


def test_a_connection_that_has_used_the_device_takes_no_trial(device, libraries):
    device.call("keep_programs", {"most": 0})
    with pytest.raises(UsageError, match="needs a connection that has not used the device"):
        trial(device, libraries["good"], libraries["good"])


def test_a_client_that_leaves_ends_its_trial(server, libraries):
    device = connect(server.address, patience=20)
    send(device, libraries["hangs"], libraries["good"], NUMBERS.tobytes())
    request = to_json(request_of(libraries["hangs"], libraries["good"], seconds=600.0))
    problems = []

    def ask():
        try:
            device.call("trial", request)
        except RemoteError as error:
            problems.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    client = server.client_process()
    children = Path(f"/proc/{client}/task/{client}/children")
    deadline = time.monotonic() + 20
    while not (found := children.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    device.abort()
    thread.join(10)
    assert len(problems) == 1
    connect(server.address, patience=20).close()
    while Path(f"/proc/{found[0]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_mutated_requests_break_nothing(tmp_path, libraries):
    calls = SessionCalls(Store(tmp_path / "store", 4_000_000), DeviceSpec("llvm"))
    device, good = direct_device(calls), libraries["good"]
    send(device, good, NUMBERS.tobytes())
    head = to_json(request_of(good, good, seconds=5.0))
    files = {"files": [{"sha256": sum_of(good), "bytes": len(good)}]}
    rng = random.Random(5)
    for number in range(300):
        name, content = ("trial", head) if number % 3 else ("trial_files", files)
        problem = ""
        try:
            read_reply(calls.answer(name, pack(mutated_value(rng, content))))
        except DdimcacheError as error:
            problem = str(error)
        assert "failed inside" not in problem, (number, problem)
    assert {path.name for path in (tmp_path / "store").iterdir()} == {
        "files", "partial", "bundles", "work"
    }  # fmt: skip
    assert trial(device, good, good).status == "good"
