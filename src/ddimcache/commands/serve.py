"""``ddimcache serve``: lends the device of this machine to a client."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from ddimcache.commands.terminal import parse_budget, parse_bytes, print_json, say
from ddimcache.errors import UsageError

KEY_VARIABLE = "DDIMCACHE_KEY"

EXAMPLES = """
  ddimcache serve --key "$(openssl rand -hex 16)" --store ~/ddimcache-store

  # with DDIMCACHE_KEY set
  ddimcache serve --store DIR --tracker 127.0.0.1:9190 \\
      --device-key adreno-740

  # on the computer that the phone hangs on
  adb forward tcp:9090 tcp:9090

  ddimcache generate "a red circle" --device rpc://127.0.0.1:9090/KEY
"""


def _load_tvm() -> None:
    """Load TVM without PyTorch, which it takes along where that is installed; a server has no use for it."""
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tvm  # noqa: F401
    finally:
        del sys.modules["torch"]


def serve(
    key: Annotated[
        str | None,
        typer.Option(
            help=f"What clients must know, no default; {KEY_VARIABLE} keeps it out of the process list."
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder for the files that clients send.", metavar="DIR")
    ] = None,
    device: Annotated[str, typer.Option(help="opencl, opencl:1 or llvm.")] = "opencl",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one and says which.")] = 9090,
    allow_other_machines: Annotated[
        bool,
        typer.Option(
            "--allow-other-machines",
            help="Let --host be an address that other machines reach. Whoever knows the key can run any code "
            "here, and the key crosses the network unencrypted.",
        ),
    ] = False,
    store_bytes: Annotated[
        str | None,
        typer.Option(
            help="How large the store may become; what was not used for longest goes first. Default: all of "
            "the disk but a little.",
            metavar="16G",
        ),
    ] = None,
    idle_seconds: Annotated[
        float, typer.Option(help="Send a client away after this time without a call.")
    ] = 600.0,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Most memory that a client may have on the device, such as 900MiB; one that names less gets "
            "less. Default: all of it.",
            metavar="BYTES",
        ),
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(help="Tracker to register with, which has the same key.", metavar="HOST:PORT"),
    ] = None,
    device_key: Annotated[
        str | None, typer.Option(help="The device's name there, such as adreno-740.", metavar="NAME")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            help="TVM's proxy to wait at too, for clients who cannot reach this machine; they give its "
            "address in rpc://host:port/KEY.",
            metavar="HOST:PORT",
        ),
    ] = None,
    reached_at: Annotated[
        str | None,
        typer.Option(
            help="How the tracker's clients reach this server, where its port is forwarded.",
            metavar="HOST:PORT",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output when it listens.")
    ] = False,
) -> None:
    """Serve the device over TVM's RPC, to one client at a time, until it is interrupted.

    Files are kept by their sums, so a bundle is sent once.
    """
    from ddimcache.commands.choose import local_device
    from ddimcache.runtime.rpc_server import Server
    from ddimcache.runtime.tracker import TrackerAddress, check_device_key, parse_host_port

    key = required_key(key)
    if store is None:
        raise UsageError("is missing", where="--store", remedy="name a folder with room for the bundles")
    place = None
    if tracker is not None:
        if device_key is None:
            raise UsageError("is missing", where="--device-key", remedy="name the device for the tracker")
        check_device_key(device_key)
        place = (TrackerAddress(*parse_host_port(tracker, "--tracker"), key), device_key)
    elif device_key is not None or reached_at is not None:
        raise UsageError("is missing", where="--tracker", remedy="name the tracker to register with")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    _load_tvm()
    server = Server(
        host,
        port,
        key,
        local_device(device),
        store,
        beyond_loopback=allow_other_machines,
        store_bytes=parse_bytes(store_bytes, "--store-bytes"),
        idle_seconds=idle_seconds,
        memory_budget=parse_budget(memory_budget),
        tracker=place,
        proxy=None if proxy is None else parse_host_port(proxy, "--proxy"),
        reached_at=None if reached_at is None else parse_host_port(reached_at, "--reached-at"),
    )
    try:
        signal.signal(signal.SIGTERM, interrupt)
        if as_json:
            print_json({"host": host, "port": server.port, "device": device, "store": str(store.absolute())})
        say(f"listening on {host}:{server.port} with device {device}; stop with Ctrl-C")
        server.serve()
    except KeyboardInterrupt:
        say("stopped")


def required_key(key: str | None) -> str:
    """Return the key of the command line or the environment; raises :class:`UsageError` without one."""
    from ddimcache.runtime.rpc_server import check_key

    key = key if key is not None else os.environ.get(KEY_VARIABLE)
    if key is None:
        raise UsageError(
            "is missing", where="--key", remedy="choose one; clients give it in rpc://host:port/KEY"
        )
    check_key(key)
    return key


def interrupt(signal_number: int, frame: object) -> None:
    """End as Ctrl-C does: a handler for SIGTERM."""
    raise KeyboardInterrupt
