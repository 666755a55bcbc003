"""Clients and servers killed in the middle of an image, and a disk that fills up during an upload.

After each the next run gives the same bytes as a local one, and every file in the store is right.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest

from ddimcache.errors import DdimcacheError, DeviceError, RemoteError
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.session import Session
from tests.fakes.drawings import draw
from tests.fakes.running_server import RunningServer

_STEPS = 300


@pytest.fixture(params=["short", pytest.param("long", marks=pytest.mark.full)])
def bundle(request):
    name = "fake_bundle" if request.param == "short" else "tiny_bundle"
    return open_bundle(request.getfixturevalue(name))


@pytest.fixture
def count(request, bundle):
    """How many clients or servers are killed."""
    return (3, 2) if bundle.manifest.model == "fake" else (50, 20)


@pytest.fixture
def expected(bundle):
    return draw(Session(bundle, DeviceSpec("llvm")))


def check_store(folder):
    """Every file is what its name says, and every bundle whole."""
    for path in (folder / "files").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    for path in (folder / "bundles").iterdir():
        open_bundle(path)


def draw_on(server, bundle):
    device = connect(server.address, patience=20.0)
    try:
        return draw(device.open(bundle, SilentProgress()))
    finally:
        device.close()


@contextmanager
def client(server, bundle):
    """A process that draws one long image after another, forked so that nothing is imported again."""
    process = os.fork()
    if not process:
        with suppress(BaseException):
            session = connect(server.address, patience=20.0).open(bundle, SilentProgress())
            while True:
                draw(session, steps=_STEPS)
        os._exit(1)
    yield process
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def wait_until_connected(server, connections):
    deadline = time.monotonic() + 60
    while sum("connected, process" in line for line in server.log) <= connections:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)


def test_clients_killed_in_the_middle(bundle, count, expected, tmp_path):
    server = RunningServer(tmp_path / "store")
    rng = random.Random(1)
    assert draw_on(server, bundle) == expected
    for number in range(count[0]):
        before = sum("connected, process" in line for line in server.log)
        with client(server, bundle):
            wait_until_connected(server, before)
            time.sleep(rng.uniform(0.0, 0.5))
        # every fifth time, for a picture costs more than a kill
        if number % 5 == 0 or number == count[0] - 1:
            assert draw_on(server, bundle) == expected, number
    code, log = server.stop()
    assert code == 0, log
    assert "Traceback" not in log
    assert log.count("client gone") >= count[0]
    check_store(tmp_path / "store")
    assert list((tmp_path / "store" / "work").iterdir()) == []


def test_servers_killed_in_the_middle(bundle, count, expected, tmp_path):
    """By turns the process that serves the client, and the server as a whole."""
    store = tmp_path / "store"
    server = RunningServer(store)
    rng = random.Random(2)
    for number in range(count[1]):
        device = connect(server.address, patience=20.0)
        session = device.open(bundle, SilentProgress())
        victim = server.client_process() if number % 2 else server.process.pid
        killer = subprocess.Popen(["sh", "-c", f"sleep {rng.uniform(0.0, 0.5):.3f}; kill -9 {victim}"])
        start = time.monotonic()
        with pytest.raises(RemoteError, match=r"the connection broke off during \w+; look at"):
            draw_for_ever(session)
        assert time.monotonic() - start < 10
        killer.wait()
        device.close()
        if victim == server.process.pid:
            server.process.wait()
            check_store(store)
            server = RunningServer(store)
        assert draw_on(server, bundle) == expected, number
    code, log = server.stop()
    assert code == 0, log
    check_store(store)


def draw_for_ever(session):
    while True:
        draw(session, steps=_STEPS)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a small disk")
def test_a_disk_that_fills_up_during_an_upload(fake_bundle, tmp_path):
    bundle = open_bundle(fake_bundle)
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", small], check=True)
    try:
        server = RunningServer(small / "store")
        device = connect(server.address)
        call = device.call
        ballast = small / "ballast"

        def call_and_fill(method, arguments, body=b""):
            if method == "write" and not ballast.exists():
                ballast.write_bytes(bytes(shutil.disk_usage(small).free - 30_000))
            return call(method, arguments, body)

        device.call = call_and_fill
        with pytest.raises(DeviceError, match=r"cannot be written: No space left on device; make room there"):
            device.open(bundle, SilentProgress())
        with pytest.raises(DdimcacheError, match="bytes are needed and 0 are free"):
            device.open(bundle, SilentProgress())
        device.close()
        check_store(small / "store")
        ballast.unlink()
        assert draw_on(server, bundle) == draw(Session(bundle, DeviceSpec("llvm")))
        code, log = server.stop()
        assert code == 0
        assert "Traceback" not in log
    finally:
        subprocess.run(["umount", "-l", small], check=True)
