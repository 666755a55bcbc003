"""Options of the verbs that share work among devices, each said once, and where they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ddimcache.commands.serve import KEY_VARIABLE, required_key
from ddimcache.errors import UsageError

if TYPE_CHECKING:
    from ddimcache.runtime.pool_devices import DeviceSource

Devices = Annotated[
    list[str] | None,
    typer.Option(help="opencl, opencl:1, llvm or rpc://host:port/key; give it once a device."),
]
Tracker = Annotated[
    str | None, typer.Option(help="Take the devices that are registered there.", metavar="HOST:PORT")
]
DeviceKey = Annotated[str | None, typer.Option(help="Their name there, such as adreno-740.", metavar="NAME")]
TrackerKey = Annotated[str | None, typer.Option(help=f"The tracker's key; or {KEY_VARIABLE}.")]


def device_sources(
    devices: list[str],
    tracker: str | None,
    device_key: str | None,
    key: str | None,
    workers: int = 1,
    kind: str | None = None,
) -> list[DeviceSource]:
    """Return where devices come from: a tracker, addresses, and ``workers`` processes a device that is here.

    Where none is named it is this machine's first of ``kind``. Raises :class:`UsageError` naming the option.
    """
    from ddimcache.commands.choose import default_device, local_device
    from ddimcache.runtime.pool_devices import LocalServer, OneServer, TrackedDevices
    from ddimcache.runtime.rpc import parse_address
    from ddimcache.runtime.tracker import TrackerAddress, check_device_key, parse_host_port

    sources: list[DeviceSource] = []
    if tracker is not None:
        if device_key is None:
            remedy = "see `ddimcache devices --tracker`"
            raise UsageError("is missing", where="--device-key", remedy=remedy)
        check_device_key(device_key)
        place = parse_host_port(tracker, "--tracker")
        sources.append(TrackedDevices(TrackerAddress(*place, required_key(key)), device_key))
    for text in dict.fromkeys(devices):
        if text.startswith("rpc:"):
            sources.append(OneServer(parse_address(text)))
        else:
            sources += [LocalServer(str(local_device(text)), workers) for _ in range(workers)]
    return sources or [LocalServer(str(default_device(kind)), workers) for _ in range(workers)]
