"""A server that waits at TVM's proxy: clients reach it there, and nothing that the proxy does harms it."""

import os
import signal
import time

import pytest

from ddimcache.cli import main
from ddimcache.errors import RemoteError
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc import connect
from ddimcache.runtime.session import Session
from tests.fakes.drawings import draw
from tests.fakes.running_server import KEY, RunningProxy, RunningServer


@pytest.fixture(scope="module")
def proxy():
    proxy = RunningProxy()
    yield proxy
    proxy.kill()


@pytest.fixture(scope="module")
def server(proxy, tmp_path_factory):
    server = RunningServer(tmp_path_factory.mktemp("store"), options=["--proxy", proxy.place])
    yield server
    code, log = server.stop()
    assert code == 0, log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def expected(fake_bundle):
    return draw(Session(open_bundle(fake_bundle), DeviceSpec("llvm")))


def draw_at(address, bundle):
    device = connect(address, patience=20.0)
    try:
        return draw(device.open(open_bundle(bundle), SilentProgress()))
    finally:
        device.close()


def wait_for(server, words):
    deadline = time.monotonic() + 30
    while not any(words in line for line in server.log):
        assert time.monotonic() < deadline, server.log
        time.sleep(0.05)


def test_the_same_bytes_by_either_way(server, proxy, fake_bundle, expected):
    assert connect(proxy.address).info.device == "llvm"
    for address in (proxy.address, server.address, proxy.address):
        assert draw_at(address, fake_bundle) == expected


def test_another_key_meets_nobody(server, proxy):
    with pytest.raises(RemoteError, match="did not answer in 1 s"):
        connect(f"rpc://{proxy.place}/another-key", timeout=1.0)


def test_a_client_that_is_killed_behind_the_proxy(server, proxy, fake_bundle, expected):
    process = os.fork()
    if not process:
        draw(connect(proxy.address).open(open_bundle(fake_bundle), SilentProgress()), steps=1000)
        os._exit(1)
    server.client_process()
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert draw_at(proxy.address, fake_bundle) == expected


def test_a_proxy_that_dies_and_comes_back(server, proxy, fake_bundle, expected):
    proxy.kill()
    wait_for(server, f"proxy {proxy.place}: lost")
    assert draw_at(server.address, fake_bundle) == expected
    proxy.start()
    assert draw_at(proxy.address, fake_bundle) == expected
    wait_for(server, f"proxy {proxy.place}: reached again")


def test_a_proxy_elsewhere_wants_leave(tmp_path, capsys):
    arguments = ["serve", "--key", KEY, "--store", str(tmp_path), "--port", "0", "--proxy", "192.0.2.1:9"]
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    told = " ".join(capsys.readouterr().err.split())
    assert "--proxy: 192.0.2.1 can be reached from other machines" in told
    assert "--allow-other-machines" in told
