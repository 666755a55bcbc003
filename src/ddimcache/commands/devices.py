"""``ddimcache devices``: what a bundle can run on here."""

from __future__ import annotations

import dataclasses
import os
import platform
from typing import Annotated, Any

import typer

from ddimcache.commands.terminal import bytes_text, print_json, print_table, say

EXAMPLES = """
[bold]Examples[/bold]

  ddimcache devices

  ddimcache devices --json | jq '.devices[].device'
"""


def devices(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output.")
    ] = False,
) -> None:
    """List the devices of this machine, by the names that --device takes."""
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
