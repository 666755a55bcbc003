"""A device behind ``ddimcache serve``: the same calls as a local session, the loop runs over there."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddimcache.errors import BundleError, RemoteError, UsageError
from ddimcache.manifest import MANIFEST_NAME, Manifest
from ddimcache.records import to_json
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.image import DrawProgress, ImageRequest, MemoryChoice
from ddimcache.runtime.progress import Progress, Stage
from ddimcache.runtime.rpc_protocol import (
    CHUNK_BYTES,
    LONGEST_KEY,
    PREFIX,
    PROBE,
    PROTOCOL,
    ServerInfo,
    pack,
    read_reply,
    set_keepalive,
)

_LEAVING_SECONDS = 2.0
_FORM = "rpc://host:port/key"


@dataclass(frozen=True)
class Address:
    """Where a server listens, and its key; ``str`` leaves the key out."""

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"rpc://{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read ``rpc://host:port/key``; raises :class:`UsageError` that says which part is wrong."""

    def wrong(what: str) -> UsageError:
        return UsageError(f"{what} in {text!r}", where="--device", remedy=f"write {_FORM}")

    if not text.startswith("rpc://"):
        raise wrong("no rpc://")
    place, slash, key = text[len("rpc://") :].partition("/")
    host, colon, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host:
        raise wrong("no host and port")
    if re.fullmatch(r"[A-Za-z0-9._:%-]+", host) is None:
        raise wrong(f"{host!r} is no host")
    if re.fullmatch(r"[0-9]{1,5}", port) is None or not 1 <= int(port) <= 65535:
        raise wrong(f"port {port!r} is not one of 1 … 65535")
    if not slash or not key:
        raise wrong("no key")
    if not key.isascii() or not key.isprintable() or any(letter in " /?#%" for letter in key):
        raise wrong("the key has a letter that no key has")
    return Address(host, int(port), key)


def _ask(address: Address, timeout: float) -> ServerInfo:
    """Shake hands without beginning a session, every wait bounded by ``timeout`` seconds."""
    from tvm.rpc import base

    try:
        with socket.create_connection((address.host, address.port), timeout) as connection:
            key = f"client:{address.key} {PROBE}".encode()
            connection.sendall(struct.pack("<ii", base.RPC_MAGIC, len(key)) + key)
            [code] = struct.unpack("<i", base.recvall(connection, 4))
            if code == base.RPC_CODE_MISMATCH:
                raise RemoteError(
                    "the key is wrong",
                    where=str(address),
                    remedy="give the --key that `ddimcache serve` was started with",
                )
            if code == base.RPC_CODE_DUPLICATE:  # of a proxy, where another client waits with this key
                raise _busy(address)
            if code != base.RPC_MAGIC:
                raise _not_ours(address)
            [length] = struct.unpack("<i", base.recvall(connection, 4))
            if not 0 <= length <= LONGEST_KEY:
                raise _not_ours(address)
            greeting = base.recvall(connection, length).decode("utf-8", "replace")
    except TimeoutError as error:
        remedy = "check the address, the network, and `adb forward` or `ssh -L` if the port is forwarded"
        raise RemoteError(f"did not answer in {timeout:g} s", where=str(address), remedy=remedy) from error
    except ConnectionRefusedError as error:
        remedy = "start `ddimcache serve` there, or forward the port"
        raise RemoteError("nobody listens", where=str(address), remedy=remedy) from error
    except socket.gaierror as error:
        raise RemoteError(f"no machine has this name: {error.strerror}", where=str(address)) from error
    except OSError as error:
        raise RemoteError(f"cannot be reached: {error.strerror or error}", where=str(address)) from error
    info = ServerInfo.of_greeting(greeting)
    if info is None:
        raise _not_ours(address)
    return info


def _not_ours(address: Address) -> RemoteError:
    return RemoteError(
        "what listens there is no `ddimcache serve`", where=str(address), remedy="check the port"
    )


class RemoteDevice:
    """A connection to a server; :attr:`info` says what its device is, :meth:`open` begins a session."""

    def __init__(
        self, address: Address, info: ServerInfo, connection: Any, wire: socket.socket | None = None
    ) -> None:
        self.address = address
        self.info = info
        self._connection: Any = connection
        self._socket = wire
        self._functions: dict[str, Any] = {}

    def open(
        self,
        bundle: Bundle,
        progress: Progress,
        memory: MemoryChoice = MemoryChoice(),  # noqa: B008  frozen
    ) -> RemoteSession:
        """Send what the server lacks of a bundle, and load it there.

        Raises what :class:`~ddimcache.runtime.session.Session` raises, and :class:`RemoteError` when the
        connection breaks.
        """
        manifest_text = (bundle.folder / MANIFEST_NAME).read_bytes()
        missing, _ = self.call("missing", {}, manifest_text)
        if missing:
            self._send(bundle, missing, progress)
        self.call("open", to_json(memory), manifest_text)
        return RemoteSession(self, bundle)

    def call(self, method: str, arguments: dict[str, Any], body: bytes = b"") -> tuple[Any, bytes]:
        """Call a method of the server; raises the error that it answers with, or :class:`RemoteError`."""
        if self._connection is None:
            raise RemoteError("the connection was closed", where=str(self.address))
        try:
            if method not in self._functions:
                self._functions[method] = self._connection.get_function(PREFIX + method)
            reply = self._functions[method](pack(arguments, body))
        except (RuntimeError, OSError, AttributeError, ValueError) as error:
            self.close()
            remedy = "look at the server's log; what it was sent is kept, so a second try goes on from there"
            raise RemoteError(
                f"the connection broke off during {method}", where=str(self.address), remedy=remedy
            ) from error
        return read_reply(bytes(reply))

    def keep_programs(self, most: int) -> int:
        """Have the server put at most ``most`` compiled programs into its cache; returns how many wait."""
        return int(self.call("keep_programs", {"most": most})[0])

    @property
    def is_open(self) -> bool:
        """Whether calls can be made: not after :meth:`close`, nor when the connection broke off."""
        return self._connection is not None

    def abort(self) -> None:
        """Cut the connection, from whichever thread: a call that waits for its answer ends with an error."""
        if self._socket is not None:
            with suppress(OSError):  # it is cut already
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the connection, and with it the session over there."""
        self._functions.clear()
        self._connection = None
        if self._socket is not None:
            self._socket.close()

    def _send(self, bundle: Bundle, missing: list[tuple[str, int]], progress: Progress) -> None:
        files = bundle.manifest.files
        total = sum(files[name].bytes - here for name, here in missing)
        with progress.stage("send (KiB)", total // 1024) as stage:
            for name, here in missing:
                try:
                    self._send_file(bundle, name, here, stage)
                except BundleError:
                    if not here:
                        raise
                    # What an earlier transfer left there was not right: the server has dropped it.
                    self._send_file(bundle, name, 0, stage)

    def _send_file(self, bundle: Bundle, name: str, offset: int, stage: Stage) -> None:
        sha256 = bundle.manifest.files[name].sha256
        with bundle.path(name).open("rb") as stream:
            stream.seek(offset)
            while piece := stream.read(CHUNK_BYTES):
                self.call("write", {"sha256": sha256, "offset": offset}, piece)
                stage.advance((offset + len(piece)) // 1024 - offset // 1024, note=name)
                offset += len(piece)
        self.call("finish", {"sha256": sha256})


class RemoteSession:
    """The methods of :class:`~ddimcache.runtime.session.Session`, run by the server, to the same results."""

    def __init__(self, device: RemoteDevice, bundle: Bundle) -> None:
        self.bundle = bundle
        self._device = device

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    def draw(self, request: ImageRequest, wait_seconds: float | None = None) -> DrawProgress:
        """Begin an image; wait for its end or so long. Without a limit it takes no other call."""
        head, body = request.message(wait_seconds)
        return self._progress(*self._device.call("draw", head, body))

    def poll(self, wait_seconds: float = 0.0, *, preview: bool = False) -> DrawProgress:
        """Tell how far the image is."""
        return self._progress(*self._device.call("poll", {"wait_seconds": wait_seconds, "preview": preview}))

    def cancel(self) -> None:
        """End the image at work."""
        self._device.call("cancel", {})

    @property
    def peak_bytes(self) -> int:
        """The most memory that was in use at once over there."""
        result, _ = self._device.call("peak_bytes", {})
        return int(result)

    def close(self) -> None:
        """Give the memory over there back; the connection stays."""
        self._device.call("close", {})

    def _progress(self, result: dict[str, Any], body: bytes) -> DrawProgress:
        return DrawProgress.of(result, body, self.manifest)


def connect(address: str | Address, timeout: float = 10.0, patience: float | None = None) -> RemoteDevice:
    """Connect to a server.

    Parameters
    ----------
    address : ``rpc://host:port/key``.
    timeout : seconds that the server has to answer.
    patience : seconds to wait for another client to leave; None: just long enough for its process to end.

    Raises :class:`UsageError` for a bad address, :class:`RemoteError` when the name is unknown, nobody
    listens, the key is wrong, something else listens, another client is at work, the protocol is another, or
    nothing is heard in time.
    """
    if isinstance(address, str):
        address = parse_address(address)
    info = _ask(address, timeout)
    # The process of a client that has just left takes a moment to end.
    deadline = time.monotonic() + (min(timeout, _LEAVING_SECONDS) if patience is None else patience)
    while info.busy and time.monotonic() < deadline:
        time.sleep(0.1)
        info = _ask(address, timeout)
    if info.protocol != PROTOCOL:
        raise RemoteError(
            f"speaks protocol {info.protocol} (ddimcache {info.ddimcache}), this one speaks {PROTOCOL}",
            where=str(address),
            remedy="install the same version on both sides",
        )
    if info.busy:
        raise _busy(address)
    from tvm import rpc

    try:
        connection = rpc.connect(address.host, address.port, address.key)
    except (RuntimeError, OSError, ValueError) as error:
        if "already have key" in str(error):
            raise _busy(address) from error
        raise RemoteError(f"broke off the handshake: {error}", where=str(address)) from error
    return RemoteDevice(address, info, connection, _socket_of(address))


def _socket_of(address: Address) -> socket.socket | None:
    """Return the socket of a connection that TVM has made, set to notice a server that is gone in a minute.

    TVM keeps its socket to itself, so it is found among the open files by its other end. None without Linux's
    /proc.
    """
    ends = {entry[4][0] for entry in socket.getaddrinfo(address.host, address.port)}
    for link in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # not connected, or closed meanwhile
            if not os.readlink(link).startswith("socket:"):
                continue
            found = socket.socket(fileno=os.dup(int(link.name)))
            try:
                internet = found.family in (socket.AF_INET, socket.AF_INET6)
                if internet and found.getpeername()[0] in ends and found.getpeername()[1] == address.port:
                    set_keepalive(found)
                    return found
            except OSError:
                pass
            found.close()
    return None


def _busy(address: Address) -> RemoteError:
    remedy = "wait for it, a device does one thing at a time"
    return RemoteError("another client is at work on the device", where=str(address), remedy=remedy)
