"""``ddimcache serve`` in a process of its own, on a free port of loopback."""

import os
import signal
import subprocess
import sys
import threading

KEY = "a-key.of~tests"


class RunningServer:
    """``ddimcache serve`` in a process of its own."""

    def __init__(self, store, device="llvm", options=()):
        command = [sys.executable, "-m", "ddimcache.cli", "serve", "--port", "0", "--device", device]
        command += ["--store", str(store), "--json", *options]
        self.store = store
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DDIMCACHE_KEY": KEY},
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
        self.port = int(text.split('"port": ')[1].split(",")[0])
        self.address = f"rpc://127.0.0.1:{self.port}/{KEY}"

    def stop(self):
        """End the server as Ctrl-C does; returns what it had to say."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        self._reader.join(5)
        return code, "".join(self.log)
