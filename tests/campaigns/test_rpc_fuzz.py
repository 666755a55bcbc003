"""Mutated messages and byte streams: no crash, nothing written outside the store, no wrong file taken in.

What is mutated are the messages of a real client, byte by byte and value by value.
"""

import hashlib
import json
import logging
import os
import random
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ddimcache.errors import DdimcacheError
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.rpc_protocol import pack, read_reply, unpack
from ddimcache.runtime.rpc_session_calls import SessionCalls
from ddimcache.runtime.rpc_store import Store
from ddimcache.runtime.session import Session
from tests.fakes.direct_calls import direct_device
from tests.fakes.drawings import draw
from tests.fakes.running_server import KEY, RunningServer
from tests.kit.mutation import mutated_bytes, mutated_value


def mutated_message(rng, message):
    if rng.random() < 0.4:
        return mutated_bytes(rng, message)
    head, body = unpack(message)
    if body.startswith(b"{") and rng.random() < 0.6:
        body = json.dumps(mutated_value(rng, json.loads(body))).encode()
    elif body and rng.random() < 0.4:
        body = mutated_bytes(rng, body)
    else:
        head = mutated_value(rng, head)
    return pack(head, body)


def snapshot(folder, without):
    return {
        path: path.lstat().st_mtime_ns for path in folder.rglob("*") if without not in (path, *path.parents)
    }


def check_store(folder):
    for path in (folder / "files").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert {path.name for path in folder.iterdir()} <= {"files", "partial", "bundles", "work", "lock"}
    for path in (folder / "partial").iterdir():
        assert len(path.name) == 64


@pytest.mark.parametrize("count", [400, pytest.param(12_000, marks=pytest.mark.full)])
def test_mutated_messages(fake_bundle, tmp_path, count, caplog):
    bundle = open_bundle(fake_bundle)
    expected = draw(Session(bundle, DeviceSpec("llvm")))
    recorded = []

    class Recorded(SessionCalls):
        def answer(self, name, message):
            recorded.append((name, message))
            return super().answer(name, message)

    assert draw(direct_device(Recorded(Store(tmp_path / "first"), DeviceSpec("llvm"))).open(
        bundle, SilentProgress()
    )) == expected  # fmt: skip
    one_of_each = {(name, len(message)): (name, message) for name, message in recorded}
    corpus = list(one_of_each.values())
    assert {name for name, _ in corpus} >= {"missing", "write", "finish", "open"}

    store = tmp_path / "store"
    calls = SessionCalls(Store(store, 4_000_000), DeviceSpec("llvm"))
    before = snapshot(tmp_path, store)
    rng = random.Random(3)
    caplog.set_level(logging.ERROR)
    accepted = 0
    for number in range(count):
        name, message = rng.choice(corpus)
        if rng.random() < 0.7:
            message = mutated_message(rng, message)
        problem = ""
        try:
            read_reply(calls.answer(name, message))
            accepted += 1
        except DdimcacheError as error:
            problem = str(error)
        assert "failed inside" not in problem, (number, name, message[:300], caplog.text[-3000:])
        if number % 1000 == 999:
            check_store(store)
    assert 0 < accepted < count
    check_store(store)
    assert snapshot(tmp_path, store) == before
    for folder in (store / "bundles").iterdir():
        open_bundle(folder)
    assert draw(direct_device(calls).open(bundle, SilentProgress())) == expected


def recorded_stream(server, bundle, file):
    """What a client sends behind its handshake, for a bundle that is opened and drawn once."""
    command = [sys.executable, "-m", "tests.fakes.recording_proxy", str(server.port), str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            device = connect(f"rpc://127.0.0.1:{int(proxy.stdout.readline())}/{KEY}")
            draw(device.open(bundle, SilentProgress()), steps=2)
            device.close()
            assert proxy.wait(20) == 0
        finally:
            proxy.kill()
    sent = file.read_bytes()
    [length] = struct.unpack_from("<i", sent, 4)
    return sent[: 8 + length], sent[8 + length :]


@pytest.mark.full  # the server lets each half-dead client wait for seconds
def test_mutated_streams_against_a_live_server(fake_bundle, tmp_path):
    bundle = open_bundle(fake_bundle)
    store = tmp_path / "store"
    server = RunningServer(store, options=["--idle-seconds", "1", "--store-bytes", "4M"])
    handshake, stream = recorded_stream(server, bundle, tmp_path / "sent")
    rng = random.Random(4)
    here = Path.cwd()
    before = {path: path.lstat().st_mtime_ns for folder in (tmp_path, here) for path in folder.iterdir()}
    for number in range(40):
        content = handshake + stream
        if number % 3 == 0:
            content = mutated_bytes(rng, handshake) + stream
        elif number % 3 == 1:
            # cut anywhere, so that what is mutated is not always the beginning
            start = rng.randrange(len(stream))
            content = handshake + stream[:start] + mutated_bytes(rng, stream[start : start + 2000])
        else:
            content = handshake + rng.randbytes(rng.choice([1, 8, 100, 5000]))
        with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 5) as connection:
            connection.settimeout(5)
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        assert server.process.poll() is None, server.log
    check_store(store)
    after = {path: path.lstat().st_mtime_ns for folder in (tmp_path, here) for path in folder.iterdir()}
    assert set(after) == set(before)
    device = connect(server.address, patience=20.0)
    expected = draw(Session(bundle, DeviceSpec("llvm")))
    assert draw(device.open(bundle, SilentProgress())) == expected
    device.close()
    code, log = server.stop()
    assert code == 0, log
    assert os.listdir(store / "work") == []
