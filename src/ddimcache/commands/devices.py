"""``ddimcache devices``: what a bundle can run on here."""

from __future__ import annotations

import dataclasses
import os
import platform
from typing import Annotated, Any

import typer

from ddimcache.commands import device_options
from ddimcache.commands.serve import required_key
from ddimcache.commands.terminal import bytes_text, print_json, print_table, say

EXAMPLES = """
  ddimcache devices

  ddimcache devices --json | jq '.devices[].device'

  # with DDIMCACHE_KEY set
  ddimcache devices --tracker 127.0.0.1:9190
"""


def devices(
    tracker: Annotated[
        str | None,
        typer.Option(help="List what is registered there instead, free and busy.", metavar="HOST:PORT"),
    ] = None,
    key: device_options.TrackerKey = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """List the devices of this machine, by the names that --device takes, or those of a tracker."""
    if tracker is not None:
        _list_registered(tracker, key, as_json)
        return
    from ddimcache.runtime.devices import describe_missing, list_devices

    missing = describe_missing()
    found = [] if missing is not None else list_devices()
    entries: list[dict[str, Any]] = [{"device": info.device, **dataclasses.asdict(info)} for info in found]
    entries.append({"device": "llvm", "name": f"{platform.machine()} CPU", "compute_units": os.cpu_count()})
    if as_json:
        print_json({"devices": entries, "missing": missing})
        return
    rows = [
        (
            info.device,
            info.name,
            info.platform,
            "yes" if info.fp16 else "no",
            "yes" if info.images else "no",
            bytes_text(info.global_mem_bytes),
        )
        for info in found
    ]
    rows.append(("llvm", str(entries[-1]["name"]), "LLVM", "–", "–", "–"))
    print_table(rows, ("device", "name", "platform", "fp16", "images", "memory"), right=(5,))
    if missing is not None:
        say(f"\nno OpenCL device: {missing}")


def _list_registered(place: str, key: str | None, as_json: bool) -> None:
    from ddimcache.runtime.tracker import TrackerAddress, list_devices, parse_host_port

    address = TrackerAddress(*parse_host_port(place, "--tracker"), required_key(key))
    found = list_devices(address)
    if as_json:
        print_json({"tracker": place, "devices": [dataclasses.asdict(device) for device in found]})
        return
    states = {True: "busy", False: "free", None: "–"}
    rows = [
        (
            device.device_key,
            device.address,
            states[device.busy],
            device.device or "–",
            device.device_name or "–",
        )
        for device in found
    ]
    if rows:
        print_table(rows, ("device key", "address", "state", "device", "name"))
    else:
        say(f"no device is registered with {address}; `ddimcache serve --tracker` registers one")
