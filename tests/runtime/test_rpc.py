"""The RPC server and its client on loopback: same bytes as a local run, clear errors, a server that lasts."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ddimcache.errors import CancelledError, RemoteError, UsageError
from ddimcache.runtime import rpc
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest, MemoryChoice, encode_png, run_image
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import Address, connect, parse_address
from ddimcache.runtime.rpc_protocol import PROTOCOL, ServerInfo, unpack
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.running_server import KEY, RunningServer

LLVM = DeviceSpec("llvm")
REQUEST = ImageRequest([1] * fake.LENGTH, [2] * fake.LENGTH, 5, 10, 3, 7.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RunningServer(tmp_path_factory.mktemp("store"))
    yield server
    code, log = server.stop()
    assert code == 0, log
    assert "Traceback" not in log
    assert "stopped" in log


def picture_of(session):
    picture = run_image(session, REQUEST, SilentProgress()).drawn
    return picture.latents.tobytes(), encode_png(picture.pixels[0], {"prompt": "x"})


def local_picture(folder):
    return picture_of(Session(open_bundle(folder), LLVM))


def test_same_bytes_as_a_local_run(server, fake_bundle):
    device = connect(server.address)
    session = device.open(open_bundle(fake_bundle), SilentProgress())
    assert picture_of(session) == local_picture(fake_bundle)
    timings = session.poll().timings
    assert (timings["full_steps"], timings["cached_steps"]) == (4, 6)
    assert 0 < timings["seconds_cached_step"] < timings["seconds"]["total"]
    assert session.peak_bytes > 0
    session.close()
    device.close()


def test_one_call_makes_an_image(server, fake_bundle):
    device = connect(server.address)
    session = device.open(open_bundle(fake_bundle), SilentProgress())
    called, call = [], device.call
    device.call = lambda method, *rest: called.append(method) or call(method, *rest)
    picture = session.draw(REQUEST).picture
    assert called == ["draw"]
    assert picture.latents.tobytes() == local_picture(fake_bundle)[0]
    device.close()


def poll_to_the_end(session):
    while session.poll(1.0).state != "done":
        pass


def test_progress_preview_and_cancel_over_there(server, fake_bundle):
    device = connect(server.address)
    session = device.open(open_bundle(fake_bundle), SilentProgress())
    session.draw(replace(REQUEST, steps=1000), 0.0)
    session.cancel()
    with pytest.raises(CancelledError, match="of 1000 steps"):
        poll_to_the_end(session)
    previews = []
    progress = session.draw(replace(REQUEST, steps=1000), 0.0)
    while progress.state != "done":
        progress = session.poll(1.0, preview=True)
        previews += [] if progress.preview is None else [progress.preview.shape]
    assert set(previews) == {(1, 4, 8, 8)}
    device.close()


@pytest.mark.parametrize("mode", ["pipelined", "load-on-use"])
def test_memory_modes_over_there(server, fake_bundle, mode):
    device = connect(server.address)
    session = device.open(open_bundle(fake_bundle), SilentProgress(), MemoryChoice(mode))
    assert picture_of(session) == local_picture(fake_bundle)
    with pytest.raises(UsageError, match="--memory-budget: 10 bytes are not enough"):
        device.open(open_bundle(fake_bundle), SilentProgress(), MemoryChoice("auto", 10))
    with pytest.raises(RemoteError, match="call of open: mode: 'most' is none of"):
        device.open(open_bundle(fake_bundle), SilentProgress(), MemoryChoice("most"))
    device.close()


@pytest.mark.opencl
def test_same_bytes_on_opencl(tmp_path):
    folder = fake.build_fake_bundle(tmp_path / "bundle", tmp_path, "opencl")
    server = RunningServer(tmp_path / "store", "opencl")
    try:
        device = connect(server.address)
        remote = device.open(open_bundle(folder), SilentProgress())
        assert picture_of(remote) == picture_of(Session(open_bundle(folder), DeviceSpec("opencl")))
        assert 0 < remote.peak_bytes < 10_000_000
        # Which the driver hands out only at the price of another compilation.
        waiting = device.keep_programs(0)
        assert [device.keep_programs(1) for _ in range(waiting)] == list(reversed(range(waiting)))
        assert device.keep_programs(1) == 0
        device.close()
    finally:
        code, log = server.stop()
    assert code == 0, log


def test_second_time_nothing_is_sent(server, fake_bundle):
    device = connect(server.address)
    device.open(open_bundle(fake_bundle), SilentProgress())
    sent = []
    device._send = lambda *arguments: sent.append(arguments)
    device.open(open_bundle(fake_bundle), SilentProgress())
    assert sent == []
    device.close()


def test_server_survives_a_client_that_vanishes(server, fake_bundle):
    code = (
        "import os; from pathlib import Path\n"
        "from ddimcache.runtime.bundle import open_bundle\n"
        "from ddimcache.runtime.image import ImageRequest\n"
        "from ddimcache.runtime.progress import SilentProgress\n"
        "from ddimcache.runtime.rpc import connect\n"
        f"device = connect({server.address!r})\n"
        f"session = device.open(open_bundle(Path({str(fake_bundle)!r})), SilentProgress())\n"
        "session.draw(ImageRequest([1] * 77, [2] * 77, 5, 1000, 1, 7.5), 0.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    device = connect(server.address)
    assert picture_of(device.open(open_bundle(fake_bundle), SilentProgress())) == local_picture(fake_bundle)
    device.close()


def test_server_survives_those_that_speak_something_else(server):
    for greeting in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<ii", 0xFF271, -5),
        struct.pack("<ii", 0xFF271, 9),
    ):
        with socket.create_connection(("127.0.0.1", server.port), 5) as connection:
            connection.sendall(greeting)
    device = connect(server.address)
    assert device.info.kind == "llvm"
    device.close()


def test_a_server_that_dies_without_a_word_is_noticed(server):
    device = connect(server.address)
    options = [
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for connection in open_sockets()
        if connection.getpeername() == ("127.0.0.1", server.port)
    ]
    assert options
    assert all(options)
    device.close()
    assert ("127.0.0.1", server.port) not in [each.getpeername() for each in open_sockets()]


def test_a_call_that_waits_is_cut_from_another_thread(server, fake_bundle):
    device = connect(server.address)
    device.open(open_bundle(fake_bundle), SilentProgress())
    child = server.client_process()
    os.kill(child, signal.SIGSTOP)
    cutter = threading.Timer(0.3, device.abort)
    cutter.start()
    with pytest.raises(RemoteError, match="broke off during timings"):
        device.call("timings", {})
    assert not device.is_open
    connect(server.address).close()


def open_sockets():
    """Yield the connected sockets of this process."""
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the folder's own handle is listed too, and closed by now
            if os.readlink(link).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(link.name))) as connection:
                    connection.getpeername()
                    yield connection


def test_one_client_at_a_time(server, monkeypatch):
    device = connect(server.address)
    monkeypatch.setattr(rpc, "_LEAVING_SECONDS", 0.2)
    with pytest.raises(RemoteError, match="another client is at work on the device; wait"):
        connect(server.address)
    device.close()
    monkeypatch.setattr(rpc, "_LEAVING_SECONDS", 5.0)
    connect(server.address).close()


def test_errors_cross_as_what_they_are(server, fake_bundle):
    device = connect(server.address)
    session = device.open(open_bundle(fake_bundle), SilentProgress())
    with pytest.raises(UsageError, match="prompt: 3 token ids, the text encoder takes 77"):
        session.draw(replace(REQUEST, ids=[1, 2, 3]))
    with pytest.raises(RemoteError, match=r"call of draw: ids\[0\]: expected a whole number"):
        device.call("draw", REQUEST.message(None)[0] | {"ids": ["one"]})
    with pytest.raises(RemoteError, match=r"call of poll: wait_seconds: is -1.0, below the least allowed, 0"):
        session.poll(-1)
    with pytest.raises(UsageError, match="--steps: 0 is outside"):
        session.draw(replace(REQUEST, steps=0))
    device.close()
    with pytest.raises(RemoteError, match="the connection was closed"):
        session.poll()


def test_broken_connection_is_an_error_in_words(server, fake_bundle):
    device = connect(server.address)
    device.open(open_bundle(fake_bundle), SilentProgress())
    child = server.client_process()
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RemoteError, match=r"rpc://127.0.0.1:\d+: the connection broke off during peak_bytes"):
        device.call("peak_bytes", {})
    connect(server.address).close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9090/key", "no rpc://"),
        ("rpc://127.0.0.1/key", "no host and port"),
        ("rpc://:9090/key", "no host and port"),
        ("rpc://ho st:9090/key", "'ho st' is no host"),
        ("rpc://host:0/key", "port '0' is not one of 1 … 65535"),
        ("rpc://host:65536/key", "port '65536'"),
        ("rpc://host:http/key", "port 'http'"),
        ("rpc://host:9090", "no key"),
        ("rpc://host:9090/", "no key"),
        ("rpc://host:9090/a/b", "the key has a letter that no key has"),
        ("rpc://host:9090/a b", "the key has a letter that no key has"),
    ],
)
def test_bad_address(address, message):
    with pytest.raises(UsageError) as caught:
        connect(address)
    assert message in str(caught.value)
    assert "write rpc://host:port/key" in str(caught.value)


def test_good_addresses():
    assert parse_address("rpc://phone.local:9090/k-1") == Address("phone.local", 9090, "k-1")
    assert parse_address("rpc://[::1]:9090/k") == Address("::1", 9090, "k")
    assert "k-1" not in str(parse_address("rpc://phone:9090/k-1"))


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        RemoteError, match=rf"rpc://127.0.0.1:{port}: nobody listens; start `ddimcache serve`"
    ):
        connect(f"rpc://127.0.0.1:{port}/key")


def test_unknown_name():
    with pytest.raises(RemoteError, match="no machine has this name"):
        connect("rpc://no-such-machine.invalid:9090/key")


def test_wrong_key(server):
    with pytest.raises(RemoteError, match="the key is wrong; give the --key"):
        connect(f"rpc://127.0.0.1:{server.port}/{KEY}x")


@contextmanager
def answering(reply):
    """A server that answers the first bytes of whoever connects with ``reply``; None is silence."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []

        def answer():
            connection, _ = listener.accept()
            held.append(connection)
            connection.recv(4096)
            if reply is not None:
                connection.sendall(reply)
                connection.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"rpc://127.0.0.1:{listener.getsockname()[1]}/key"
        thread.join(5)
        for connection in held:
            connection.close()


def greeting(text):
    content = text.encode()
    return struct.pack("<ii", 0xFF271, len(content)) + content


INFO = ServerInfo(PROTOCOL, "9.9.9", "0.27", "opencl", "Adreno", "opencl", "aarch64-linux-android", False)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what listens there is no `ddimcache serve`"),
        (greeting("server:rasp3b"), "what listens there is no `ddimcache serve`"),
        (greeting("server:ddimcache {}"), "what listens there is no `ddimcache serve`"),
        (struct.pack("<ii", 0xFF271, 1 << 30), "what listens there is no `ddimcache serve`"),
        (
            greeting(replace(INFO, protocol=PROTOCOL + 1).greeting()),
            f"speaks protocol {PROTOCOL + 1} (ddimcache 9.9.9), this one speaks {PROTOCOL}",
        ),
        (b"\x71", "cannot be reached: connection reset"),
        (None, "did not answer in 0.5 s"),
    ],
)
def test_servers_that_are_none_of_ours(reply, message):
    with answering(reply) as address, pytest.raises(RemoteError) as caught:
        connect(address, timeout=0.5)
    assert message in str(caught.value)


@pytest.mark.parametrize("message", [b"", b"\xff\xff\xff\xff{}", b"\x02\0\0\0[]", b"\x01\0\0\0{"])
def test_torn_message(message):
    with pytest.raises(RemoteError, match="sent a"):
        unpack(message)


def test_interrupt_ends_a_running_server(tmp_path):
    server = RunningServer(tmp_path / "store")
    device = connect(server.address)
    start = time.monotonic()
    code, log = server.stop()
    assert code == 0, log
    assert time.monotonic() - start < 10
    with pytest.raises(RemoteError):
        device.call("peak_bytes", {})
