"""What servers and clients say to a tracker: TVM's protocol, with the key in front of the device's name.

A tracker knows which devices are free and gives each to one client at a time. TVM's protocol has no notion of
a key, so ours travels in the names: a device that people call ``adreno-740`` is ``KEY/adreno-740`` to the
tracker, which lists it without the key. TVM's own tools can request it by that longer name.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import struct
from dataclasses import dataclass
from typing import Any

from ddimcache.errors import RemoteError, UsageError
from ddimcache.runtime.rpc import Address

LARGEST_MESSAGE = 1 << 20
_SECONDS = 10.0


@dataclass(frozen=True)
class TrackerAddress:
    """Where a tracker listens, and its key; ``str`` leaves the key out."""

    host: str
    port: int
    key: str

    def __str__(self) -> str:
        return f"tracker {self.host}:{self.port}"


@dataclass(frozen=True)
class ListedDevice:
    """A server as a tracker knows it. What a server of another make does not say is None."""

    device_key: str
    address: str
    busy: bool | None
    device: str | None
    device_name: str | None
    kind: str | None
    host: str | None


def parse_host_port(text: str, option: str) -> tuple[str, int]:
    """Read ``host:port``; raises :class:`UsageError` that names the option."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    good = colon and re.fullmatch(r"[A-Za-z0-9._:%-]+", host) and re.fullmatch("[0-9]{1,5}", port)
    if not good or not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r} is not of the form host:port", where=option)
    return host, int(port)


def check_device_key(text: str) -> None:
    """Raise :class:`UsageError` for a name that a tracker cannot list a device under."""
    if re.fullmatch(r"[A-Za-z0-9._+-]{1,60}", text) is None:
        raise UsageError(
            f"{text!r} is no name for a device",
            where="--device-key",
            remedy="take up to 60 letters, digits or . _ + -, such as adreno-740",
        )


def name_of(key: str, device_key: str) -> str:
    """Return what a tracker calls a device."""
    return f"{key}/{device_key}"


def new_match_key(name: str) -> str:
    """Return a secret that lets one client in, in the form that TVM's tracker takes apart again."""
    return f"{name}:{secrets.token_hex(16)}"


def list_devices(tracker: TrackerAddress) -> list[ListedDevice]:
    """Return the servers that are registered; raises :class:`RemoteError`."""
    from tvm.rpc.base import TrackerCode

    with _connect(tracker) as connection:
        answer = _ask(connection, tracker, [TrackerCode.SUMMARY, tracker.key])
    try:
        return sorted(map(_listed, answer["server_info"]), key=lambda each: (each.device_key, each.address))
    except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:
        raise RemoteError("sent a list that cannot be read", where=str(tracker)) from error


def _listed(entry: dict[str, Any]) -> ListedDevice:
    host, port = entry["addr"]
    texts = {name: entry.get(name) for name in ("device", "device_name", "kind", "host")}
    busy = entry.get("busy")
    return ListedDevice(
        device_key=str(entry["key"]).removeprefix("server:"),
        address=f"{host}:{int(port)}",
        busy=busy if isinstance(busy, bool) else None,
        **{name: text if isinstance(text, str) else None for name, text in texts.items()},
    )


def request_device(tracker: TrackerAddress, device_key: str, seconds: float) -> Address:
    """Wait up to ``seconds`` for a free device and return its address, whose key lets one client in once.

    Raises :class:`RemoteError` when none becomes free, or the tracker cannot be reached.
    """
    from tvm.rpc.base import TrackerCode

    with _connect(tracker) as connection:
        message = [TrackerCode.REQUEST, name_of(tracker.key, device_key), "", 1]
        connection.settimeout(seconds)
        try:
            answer = _ask(connection, tracker, message)
        except TimeoutError as error:
            raise RemoteError(
                f"no {device_key} became free in {seconds:g} s",
                where=str(tracker),
                remedy="see `ddimcache devices --tracker`",
            ) from error
    try:
        host, port, match_key = answer
        return Address(str(host), int(port), str(match_key))
    except (TypeError, ValueError) as error:
        raise RemoteError("sent a device that cannot be read", where=str(tracker)) from error


def _connect(tracker: TrackerAddress) -> socket.socket:
    from tvm.rpc import base

    remedy = "start `ddimcache tracker` there, or forward the port"
    try:
        connection = socket.create_connection((tracker.host, tracker.port), _SECONDS)
        try:
            connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            found = base.recvall(connection, 4)
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        text = f"cannot be reached: {error.strerror or error}"
        raise RemoteError(text, where=str(tracker), remedy=remedy) from error
    if found != struct.pack("<i", base.RPC_TRACKER_MAGIC):
        connection.close()
        raise RemoteError("is no tracker of TVM's RPC", where=str(tracker), remedy="check the port")
    return connection


def _ask(connection: socket.socket, tracker: TrackerAddress, message: list[Any]) -> Any:
    """Send a message and return what comes with the answer; raises TimeoutError or RemoteError."""
    from tvm.rpc import base

    try:
        base.sendjson(connection, message)
        [length] = struct.unpack("<i", base.recvall(connection, 4))
        if not 0 < length <= LARGEST_MESSAGE:
            raise ValueError("no length of a message")
        code, value = json.loads(base.recvall(connection, length))
    except TimeoutError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise RemoteError(f"broke off: {error}", where=str(tracker)) from error
    if code != base.TrackerCode.SUCCESS:
        remedy = "give the --key that `ddimcache tracker` was started with"
        raise RemoteError("the key is wrong", where=str(tracker), remedy=remedy)
    return value
