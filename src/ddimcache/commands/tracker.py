"""``ddimcache tracker``: knows which devices are free, and lends each to one client at a time."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Annotated

import typer

from ddimcache.commands.serve import KEY_VARIABLE, interrupt, required_key
from ddimcache.commands.terminal import print_json, say

EXAMPLES = """
  export DDIMCACHE_KEY="$(openssl rand -hex 16)"

  ddimcache tracker

  # once a device
  ddimcache serve --store DIR --tracker 127.0.0.1:9190 \\
      --device-key adreno-740

  ddimcache devices --tracker 127.0.0.1:9190
"""


def tracker(
    key: Annotated[
        str | None,
        typer.Option(
            help=f"What servers and clients must know, no default; {KEY_VARIABLE} keeps it out of the "
            "process list."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one and says which.")] = 9190,
    allow_other_machines: Annotated[
        bool,
        typer.Option(
            "--allow-other-machines",
            help="Let --host be an address that other machines reach. Whoever reads the key on the network, "
            "where it is unencrypted, gets the devices.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output when it listens.")
    ] = False,
) -> None:
    """Keep a list of devices and lend them, until it is interrupted: TVM's own tracker, with a key.

    Servers register by `ddimcache serve --tracker`; to TVM's own tools a device is called KEY/NAME.
    """
    from ddimcache.runtime.rpc_server import listen
    from ddimcache.runtime.tracker_server import make_tracker

    key = required_key(key)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    danger = "whoever reads the key there, where it is unencrypted, gets the devices"
    listener = listen(host, port, beyond_loopback=allow_other_machines, danger=danger)
    port = listener.getsockname()[1]
    try:
        run = make_tracker(listener, key)
        signal.signal(signal.SIGTERM, interrupt)
        if as_json:
            print_json({"host": host, "port": port})
        say(f"tracker on {host}:{port}; stop with Ctrl-C")
        run()
    except KeyboardInterrupt:
        say("stopped")
    finally:
        listener.close()
