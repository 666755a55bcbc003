"""A server that lasts: clients that vanish, send rubbish, hang, or keep the connection without using it."""

import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from ddimcache.errors import RemoteError, UsageError
from ddimcache.runtime import rpc
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.rpc_server import is_loopback, listen
from tests.fakes.running_server import KEY, RunningServer
from tests.kit.no_torch import without_torch

MAGIC = 0xFF271
_TCP_REPAIR = 19


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = RunningServer(tmp_path_factory.mktemp("store"), options=["--idle-seconds", "3"])
    connect(server.address).close()  # imports what takes long to import
    yield server
    code, log = server.stop()
    assert code == 0, log
    assert "Traceback" not in log
    assert list((server.store / "work").iterdir()) == []


@contextmanager
def raw(server, content=b""):
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(content)
        yield connection


def hello(key):
    return struct.pack("<ii", MAGIC, len(key)) + key.encode()


@contextmanager
def at_work(server):
    """A connection that was let in."""
    seconds_until_free(server, 5)
    with raw(server, hello(f"client:{KEY}")) as connection:
        let_in(connection)
        yield connection


def let_in(connection):
    """Read the server's half of the handshake."""
    code, length = struct.unpack("<ii", connection.recv(8, socket.MSG_WAITALL))
    assert code == MAGIC
    assert connection.recv(length, socket.MSG_WAITALL).startswith(b"server:ddimcache ")


def seconds_until_free(server, within):
    """Wait until the device can be had, and return how long that took."""
    start = time.monotonic()
    while rpc._ask(rpc.parse_address(server.address), 5).busy:
        assert time.monotonic() - start < within
        time.sleep(0.05)
    return time.monotonic() - start


def test_a_slow_handshake_keeps_nobody_waiting(server):
    with raw(server, struct.pack("<i", MAGIC)):
        start = time.monotonic()
        connect(server.address).close()
        assert time.monotonic() - start < 3


def test_one_letter_now_and_then_does_not_keep_a_handshake_open(server):
    with raw(server) as connection:
        start = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            for byte in hello("client:" + "x" * 500):
                connection.sendall(bytes([byte]))
                time.sleep(0.25)
        assert 4 < time.monotonic() - start < 12


def test_many_who_say_nothing(server):
    held = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(150)]
    start = time.monotonic()
    connect(server.address).close()
    assert time.monotonic() - start < 5
    for connection in held:
        connection.close()


def test_a_client_that_keeps_silent_is_sent_away(server):
    device = connect(server.address)
    assert seconds_until_free(server, 10) > 1
    with pytest.raises(RemoteError, match="the connection broke off"):
        device.call("peak_bytes", {})
    assert any("sent away after 3 s without a call" in line for line in server.log)


def test_half_a_message_and_then_nothing(server):
    with at_work(server) as connection:
        connection.sendall(struct.pack("<Q", 1000) + b"the beginning")
        assert seconds_until_free(server, 10) > 1


@contextmanager
def stock_client(server, code, *arguments):
    """A process that uses TVM's own client as ``remote`` and says a word when it begins."""
    head = "import sys, tvm; from tvm import rpc\n"
    head += "remote = rpc.connect('127.0.0.1', int(sys.argv[1]), sys.argv[2])\n"
    seconds_until_free(server, 5)
    command = [sys.executable, "-c", head + code, str(server.port), KEY, *map(str, arguments)]
    environment = without_torch(os.environ)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "begin\n"
        yield process
        process.kill()


def test_a_client_that_does_not_read_its_answers(server):
    code = (
        "remote.upload(bytearray(64 << 20), 'large')\n"
        "print('begin', flush=True)\n"
        "while True: remote.download('large')\n"
    )
    with stock_client(server, code) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        assert seconds_until_free(server, 12) > 1


@pytest.mark.parametrize(
    "tail", [b"", b"\0" * 64, b"\xff" * 64, struct.pack("<Q", 1 << 60), bytes(range(256)) * 16]
)
def test_rubbish_behind_a_good_handshake(server, tail):
    with at_work(server) as connection:
        connection.sendall(tail)
        connection.shutdown(socket.SHUT_WR)
        seconds_until_free(server, 6)
    connect(server.address).close()


def test_it_does_without_pytorch(server):
    """TVM would bring it along: 200 MB, and longer than all else at the start."""
    with open(f"/proc/{server.process.pid}/maps") as maps:
        libraries = maps.read()
    assert "libtvm_ffi.so" in libraries
    assert "libtorch" not in libraries


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A library whose ``main`` adds 1 to 16 numbers."""
    import tvm
    from tvm import te

    source = te.placeholder((16,), name="source")
    result = te.compute((16,), lambda i: source[i] + 1.0, name="result")
    path = tmp_path_factory.mktemp("library") / "add.so"
    tvm.compile(te.create_prim_func([source, result]), target="llvm").export_library(str(path))
    return path


def test_the_device_is_free_at_once_when_its_client_is_killed_during_a_call(server, library):
    code = (
        "remote.upload(sys.argv[3])\n"
        "numbers = [tvm.runtime.empty((16,), 'float32', remote.cpu(0)) for _ in range(2)]\n"
        "for_ever = remote.load_module('add.so').time_evaluator('main', remote.cpu(0), number=10**9)\n"
        "print('begin', flush=True)\n"
        "for_ever(*numbers)\n"
    )
    with stock_client(server, code, library) as process:
        time.sleep(0.5)
        assert process.poll() is None
        process.kill()
        process.wait()
        assert seconds_until_free(server, 5) < 3


def test_a_killed_server_takes_its_client_with_it(tmp_path):
    server = RunningServer(tmp_path / "store")
    device = connect(server.address)
    child = server.client_process()
    server.process.kill()
    server.process.wait()
    with pytest.raises(RemoteError, match="broke off"):
        device.call("peak_bytes", {})
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and os.path.exists(f"/proc/{child}"):
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}")
    RunningServer(tmp_path / "store").stop()  # and its store is free


@pytest.mark.skipif(os.getuid() != 0, reason="only root can close a socket without a packet")
def test_a_connection_that_is_cut_without_a_word(server):
    """The other end is gone and says nothing."""
    with at_work(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        connection.close()
        assert seconds_until_free(server, 10) > 1


def test_tvm_clients_upload_and_load_a_module(server, library):
    """What TVM's own client does works too, and leaves nothing behind."""
    import tvm
    from tvm import rpc as tvm_rpc

    seconds_until_free(server, 5)
    remote = tvm_rpc.connect("127.0.0.1", server.port, KEY)
    remote.upload(str(library))
    module = remote.load_module("add.so")
    device = remote.cpu(0)
    numbers = tvm.runtime.tensor(np.arange(16, dtype="float32"), device)
    answer = tvm.runtime.empty((16,), "float32", device)
    module(numbers, answer)
    np.testing.assert_array_equal(answer.numpy(), np.arange(16, dtype="float32") + 1)
    with pytest.raises(Exception, match="leads out of the folder for uploads"):
        remote.upload(str(library), "../../escape.so")
    del module, numbers, answer, remote
    gc.collect()
    seconds_until_free(server, 5)
    assert list((server.store / "work").iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "10.0.0.1"])
def test_beyond_loopback_is_refused_with_the_reason(host):
    with pytest.raises(
        UsageError, match=f"{host} can be reached from other machines, and this.*--allow-other"
    ):
        listen(host, 0, beyond_loopback=False, danger="this is bad")
    assert not is_loopback(host)


def test_listens_elsewhere_when_told(tmp_path):
    listener = listen("0.0.0.0", 0, beyond_loopback=True, danger="")
    assert listener.getsockname()[0] == "0.0.0.0"
    listener.close()


def test_terminated_while_a_client_hangs_in_its_handshake(tmp_path):
    server = RunningServer(tmp_path / "store")
    with raw(server, b"\x71"):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
