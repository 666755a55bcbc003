"""The tracker and its servers: registered, lent one at a time, and again after each client and each fault."""

import json
import socket
import struct
import time

import pytest

from ddimcache.errors import RemoteError, UsageError
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.tracker import (
    TrackerAddress,
    check_device_key,
    list_devices,
    new_match_key,
    parse_host_port,
    request_device,
)
from tests.fakes.running_server import KEY, RunningTracker

MAGIC = struct.pack("<i", 0x2F271)


@pytest.fixture(scope="module")
def tracker():
    tracker = RunningTracker()
    yield tracker
    code, log = tracker.stop()
    assert code == 0, log
    assert "Traceback" not in log
    assert KEY not in log


@pytest.fixture(scope="module")
def server(tracker, tmp_path_factory):
    server = tracker.server(tmp_path_factory.mktemp("store"))
    yield server
    code, log = server.stop()
    assert code == 0, log
    assert "Traceback" not in log


def test_lent_one_at_a_time_and_registered_again(tracker, server):
    [listed] = tracker.wait_for([True])
    assert (listed.device_key, listed.kind, listed.device) == ("lab", "llvm", "llvm")
    assert listed.address == f"127.0.0.1:{server.port}"
    for _ in range(3):
        address = request_device(tracker.address, "lab", 10)
        device = connect(address)
        tracker.wait_for([False])
        with pytest.raises(RemoteError, match="no lab became free in"):
            request_device(tracker.address, "lab", 0.3)
        device.close()
        with pytest.raises(RemoteError, match="the key is wrong"):
            connect(address)  # what the tracker gives out lets in once


def test_a_client_that_does_not_come_costs_some_seconds(tracker, server):
    tracker.wait_for([True])
    request_device(tracker.address, "lab", 10)
    start = time.monotonic()
    connect(request_device(tracker.address, "lab", 30)).close()
    assert 4 < time.monotonic() - start < 20


def test_a_client_with_the_servers_own_key_makes_it_busy_for_the_tracker(tracker, server):
    tracker.wait_for([True])
    device = connect(server.address)
    tracker.wait_for([False])
    with pytest.raises(RemoteError, match="no lab became free"):
        request_device(tracker.address, "lab", 0.3)
    device.close()
    connect(request_device(tracker.address, "lab", 10)).close()


def test_stock_clients_can_request(tracker, server):
    from tvm.rpc import TrackerSession

    tracker.wait_for([True])
    session = TrackerSession(("127.0.0.1", tracker.port)).request(f"{KEY}/lab")
    assert session.cpu(0).exist
    tracker.wait_for([False])
    del session


def test_a_killed_server_leaves_the_list(tracker, server, tmp_path):
    tracker.wait_for([True])
    second = tracker.server(tmp_path / "store", "other")
    assert {each.device_key for each in tracker.wait_for([True, True])} == {"lab", "other"}
    second.kill()
    [left] = tracker.wait_for([True])
    assert left.device_key == "lab"


def test_a_tracker_that_comes_back_is_found_again(tmp_path):
    tracker = RunningTracker()
    server = tracker.server(tmp_path / "store")
    tracker.wait_for([True])
    tracker.kill()
    connect(server.address).close()
    again = RunningTracker(port=tracker.port)
    again.wait_for([True])
    connect(request_device(again.address, "lab", 10)).close()
    again.stop()
    code, log = server.stop()
    assert code == 0
    assert "lost" in log
    assert "reached again" in log


def test_the_wrong_key_gets_nothing(tracker, server):
    tracker.wait_for([True])
    wrong = TrackerAddress("127.0.0.1", tracker.port, KEY + "x")
    for ask in (lambda: list_devices(wrong), lambda: request_device(wrong, "lab", 3)):
        with pytest.raises(RemoteError, match="the key is wrong; give the --key"):
            ask()


def test_nobody_and_somebody_else(server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RemoteError, match="cannot be reached: Connection refused; start"):
        list_devices(TrackerAddress("127.0.0.1", port, KEY))
    with pytest.raises(RemoteError, match=r"cannot be reached|is no tracker"):
        list_devices(TrackerAddress("127.0.0.1", server.port, KEY))


def message(value):
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<i", len(content)) + content


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        MAGIC[:2],
        MAGIC + struct.pack("<i", -1),
        MAGIC + struct.pack("<i", 1 << 30),
        MAGIC + message(b"\xff\xfe"),
        MAGIC + message(b"[" * 100_000),
        MAGIC + message(7),
        MAGIC + message([]),
        MAGIC + message([99]),
        MAGIC + message([2, "anything"]),
        MAGIC + message([3, f"{KEY}/lab", [1, "no match key"], None]),
        MAGIC + message([3, f"{KEY}/lab", "no", None]),
        MAGIC + message([3, "lab", [1, "lab:0.5"], None]),
        MAGIC + message([4, f"{KEY}/lab", "", "high"]),
        MAGIC + message([4, "lab", "", 1]),
        MAGIC + message([5, {"key": "server:lab", "addr": [None, 1]}]),
        MAGIC + message([5, {"key": f"server:{KEY}/lab", "addr": 5}]),
        MAGIC + message([6]),
    ],
)
def test_rubbish_changes_nothing(tracker, server, content):
    with socket.create_connection(("127.0.0.1", tracker.port), 5) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while received := connection.recv(4096):
            assert KEY.encode() not in received
            assert b"adreno" not in received
    [listed] = list_devices(tracker.address)
    assert listed.device_key == "lab"


def test_many_who_say_nothing(tracker, server):
    held = [socket.create_connection(("127.0.0.1", tracker.port), 5) for _ in range(400)]
    assert len(list_devices(tracker.address)) == 1
    for connection in held:
        connection.close()


@pytest.mark.parametrize("text", ["", "a/b", "a b", "a:b", "x" * 61, "ü"])
def test_bad_device_keys(text):
    with pytest.raises(UsageError, match="is no name for a device"):
        check_device_key(text)


@pytest.mark.parametrize("text", ["host", "host:", ":1", "host:0", "host:65536", "ho st:1", "host:x"])
def test_bad_places(text):
    with pytest.raises(UsageError, match=r"--tracker: .* is not of the form host:port"):
        parse_host_port(text, "--tracker")


def test_match_keys_cannot_be_guessed():
    assert len({new_match_key("k/lab") for _ in range(100)}) == 100
    assert new_match_key("k/lab").rpartition(":")[0] == "k/lab"
