"""Carries two clients to a server, one after the other, and writes down what the second one sends.

A process of its own (``python -m tests.fakes.recording_proxy PORT FILE``): a client waits for answers with
Python's lock held when it lets go of what lies on a device, and threads beside it would wait for ever.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path


def carry(source: socket.socket, target: socket.socket, note: bytearray) -> None:
    """Copy from one socket to the other until the first is closed, and into ``note``."""
    with suppress(OSError):
        while piece := source.recv(65536):
            note.extend(piece)
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main(port: int, file: Path) -> None:
    """Print the port to connect to, and write ``file`` when both clients have gone."""
    note = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        for _ in ("the probe", "the session"):
            client, _ = listener.accept()
            upstream = socket.create_connection(("127.0.0.1", port))
            note = bytearray()
            back = threading.Thread(target=carry, args=(upstream, client, bytearray()), daemon=True)
            back.start()
            carry(client, upstream, note)
            back.join(10)
    file.write_bytes(note)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
