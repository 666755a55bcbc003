"""``ddimcache serve`` and ``tracker`` in processes of their own, on free ports of loopback."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ddimcache.runtime.tracker import TrackerAddress, list_devices

KEY = "a-key.of~tests"


_C_LIBRARY = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def begin_child():
    """Let Ctrl-C end this process whatever the one that started it does about it, and never outlive that one.

    A test that fails has no chance to stop what it started.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _C_LIBRARY.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


class RunningVerb:
    """A verb that listens, in a process of its own; ``python`` is the command line that runs Python."""

    def __init__(self, *arguments, python=(sys.executable,)):
        self.process = subprocess.Popen(
            [*python, "-m", "ddimcache.cli", *map(str, arguments), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DDIMCACHE_KEY": KEY},
            # A shell starts what is behind an & with SIGINT ignored, and that is inherited.
            preexec_fn=begin_child,
        )
        self.log = []
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                break
        assert text, self.stop()
        self.port = int(json.loads(text)["port"])

    def stop(self):
        """End it as Ctrl-C does; returns what it had to say."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(60)
        self._reader.join(5)
        return code, "".join(self.log)

    def kill(self):
        """End it without a chance to tidy up."""
        self.process.kill()
        self.process.wait()


class RunningServer(RunningVerb):
    """``ddimcache serve`` in a process of its own."""

    def __init__(self, store, device="llvm", options=(), port=0, python=(sys.executable,)):
        self.store = store
        given = ["--port", port, "--device", device, "--store", store, *options]
        super().__init__("serve", *given, python=python)
        self.address = f"rpc://127.0.0.1:{self.port}/{KEY}"

    def client_process(self):
        """The process that serves the client at work; it is there a moment after the client's handshake."""
        deadline = time.monotonic() + 30
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)
        [process] = map(int, found)
        return process


class RunningTracker(RunningVerb):
    """``ddimcache tracker`` in a process of its own."""

    def __init__(self, port=0):
        super().__init__("tracker", "--port", port)
        self.address = TrackerAddress("127.0.0.1", self.port, KEY)
        self.place = f"127.0.0.1:{self.port}"

    def server(self, store, name="lab", device="llvm"):
        """Start a server that registers here."""
        return RunningServer(store, device, ["--tracker", self.place, "--device-key", name])

    def wait_for(self, states):
        """Wait until the devices listed are free (True) or busy (False), as many of each as given."""
        deadline = time.monotonic() + 30
        while True:
            listed = list_devices(self.address)
            found = sorted(device.busy is False for device in listed)
            if found == sorted(states):
                return listed
            assert time.monotonic() < deadline, (listed, self.log)
            time.sleep(0.1)


class RunningProxy:
    """TVM's proxy in a process of its own, which can end and come back."""

    _RUN = """
import socket, sys
from tvm.rpc.proxy import _proxy_server
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(8)
print(listener.getsockname()[1], flush=True)
_proxy_server(listener, listener.getsockname()[1], 0, 600, 600, None, None, None)
"""

    def __init__(self):
        self.port = 0
        self.start()
        self.place = f"127.0.0.1:{self.port}"
        self.address = f"rpc://{self.place}/{KEY}"

    def start(self):
        """Listen, where it listened before if it did."""
        command = [sys.executable, "-c", self._RUN, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        """End it without a word to those who are connected."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
