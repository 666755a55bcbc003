"""Where ``ddimcache tune`` runs its trials: on a device here, in the lab, or on devices behind RPC."""

from __future__ import annotations

import datetime
import re
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ddimcache.commands.choose import default_device, local_device, target_of
from ddimcache.commands.terminal import say
from ddimcache.compiler.fingerprint import versions
from ddimcache.compiler.options import HOSTS
from ddimcache.compiler.target import profile
from ddimcache.errors import UsageError
from ddimcache.runtime.local_device import device_driver, device_name, host_triple, open_device
from ddimcache.schedules import tuning_records as store

if TYPE_CHECKING:
    from ddimcache.runtime.pool_devices import DeviceSource
    from ddimcache.tuning.far_devices import FarDevice

LAB = "lab"
Note = Callable[[store.Origin], None]
"""Writes down a device on which trials run."""


class Place(Protocol):
    """Where trials run: leaving it gives the devices back."""

    target: str
    """The device profile that is tuned."""
    host: str
    """The machine that host code is built for, where a model is compiled for its workloads."""
    name: str
    method: store.Method

    def __enter__(self) -> Any: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def note(self, note: Note) -> None:
        """Have the device written down; those behind RPC are when they run something."""

    def runner(self, seconds: float, memory: int, note: Note) -> AbstractContextManager[Any]:
        """What runs trials, each within ``seconds`` and ``memory`` bytes."""


def is_far(devices: Sequence[str], tracker: str | None) -> bool:
    """Whether trials run behind RPC: on servers, or on several devices, each of which gets a server."""
    if LAB in devices and (len(devices) > 1 or tracker is not None):
        raise UsageError("is no device that others can share work with", where="--device lab")
    return tracker is not None or len(devices) > 1 or any(text.startswith("rpc:") for text in devices)


class LocalPlace:
    """A device of this machine, or the lab. Raises :class:`UsageError` for a target that does not fit it."""

    def __init__(self, target: str | None, device: str | None) -> None:
        if target is not None:
            profile(target)
        self.host = host_triple()
        self.method: store.Method = "measured"
        if device == LAB or (device is None and target == "adreno-740"):
            if target not in (None, "adreno-740"):
                raise UsageError(
                    "is of an Adreno 740", where="--device lab", remedy="take --target adreno-740"
                )
            from ddimcache.adreno.lab import require

            require()
            self.target, self.name, self.method = "adreno-740", LAB, "modelled"
            about = ("Adreno 740, by Mesa's compiler and a model of time; no phone was measured", "Mesa")
        else:
            kind = None if target is None else profile(target).kind
            spec = local_device(device) if device is not None else default_device(kind)
            open_device(spec, spec.kind)
            if target is not None and profile(target).kind != spec.kind:
                raise UsageError(f"runs on {profile(target).kind}, not on {spec}", where="--target")
            self.target, self.name = target or target_of(spec.kind, device_name(spec)), str(spec)
            about = (device_name(spec), device_driver(spec))
        self._origin = origin_of(self.method, *about)

    def __enter__(self) -> LocalPlace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing belongs to it."""

    def note(self, note: Note) -> None:
        """Have the device written down."""
        note(self._origin)

    def runner(self, seconds: float, memory: int, note: Note) -> AbstractContextManager[Any]:
        """A runner of trials one after another."""
        from ddimcache.tuning.runner import Runner

        note(self._origin)
        return Runner(self.target, self.name, seconds=seconds, memory=memory, origin=self._origin.key)


class FarPlace:
    """Devices behind RPC, all of one target: that which is given, or what the first one is."""

    method: store.Method = "measured"

    def __init__(self, sources: Sequence[DeviceSource], target: str | None, host: str | None) -> None:
        from ddimcache.tuning.far_devices import FarDevices

        if target is not None:
            profile(target)
        if host is not None and host not in HOSTS:
            raise UsageError(f"{host!r} is none of: {', '.join(HOSTS)}", where="--host")
        self._given_host = host
        self._devices = FarDevices(sources)
        # A name that is wrong is told at once; later, one that is lost may come back.
        patience, self._devices.patience = self._devices.patience, 1
        try:
            with self._devices.lend() as first:
                self.target = target or _target_of(first)
                self.host = host or first.device.info.host
                _check(first, self.target, host)
                self.name = str(first.device.address)
                self._origin = _origin(first)
        except BaseException:
            self._devices.close()
            raise
        self._devices.patience = patience
        if self._devices.width > 1:
            self.name = f"{self._devices.width} devices"

    def __enter__(self) -> FarPlace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._devices.close()

    def note(self, note: Note) -> None:
        """Have the first one written down; the others are when they run something."""
        note(self._origin)

    def runner(self, seconds: float, memory: int, note: Note) -> AbstractContextManager[Any]:
        """A runner of as many trials at once as there are devices."""
        from ddimcache.tuning.far_runner import FarRunner

        noted = {self._origin.key}
        lock = threading.Lock()
        note(self._origin)

        def noted_origin(device: FarDevice) -> str:
            origin = _origin(device)
            with lock:
                if origin.key not in noted:
                    note(origin)
                    noted.add(origin.key)
            return origin.key

        self._devices.accept = lambda device: _check(device, self.target, self._given_host)
        return FarRunner(
            self.target,
            self._devices,
            host=self._given_host,
            seconds=seconds,
            memory=memory,
            origin_of=noted_origin,
        )


def _origin(device: FarDevice) -> store.Origin:
    return origin_of("measured", device.device.info.device_name, device.driver)


def _target_of(device: FarDevice) -> str:
    return target_of(device.device.info.kind, device.device.info.device_name)


def _check(device: FarDevice, target: str, host: str | None) -> None:
    """Raises :class:`UsageError` for a device whose records would not be of ``target``."""
    info, where = device.device.info, str(device.device.address)
    if profile(target).kind != info.kind:
        raise UsageError(f"{target} runs on {profile(target).kind}, this is {info.kind}", where=where)
    own = _target_of(device)
    if own != target:
        say(f"{where} is a {info.device_name}, for which {own} is made; it is tuned as {target}")
    if host is None and info.host not in HOSTS:
        raise UsageError(f"says that its host is {info.host[:80]!r}", where=where, remedy="give --host")


def origin_of(method: store.Method, device: str, driver: str) -> store.Origin:
    """What a manifest says of a device on which trials run now; names come from drivers and servers."""
    kept = {key: value for key, value in versions().items() if key in ("ddimcache", "apache-tvm")}
    return store.Origin(
        method,
        _plain(device),
        _plain(driver),
        kept,
        datetime.date.today().isoformat(),
        shlex.join(["ddimcache", *_without_keys(sys.argv[1:])])[:500],
    )


def note_origin(folder: Path, target: str, origin: store.Origin) -> None:
    """Writes a device into the folder's manifest; raises :class:`UsageError` for one of another target."""
    manifest = store.TuningManifest(store.FORMAT, target)
    if (folder / store.MANIFEST).exists():
        manifest = store.read_manifest(folder)
        if manifest.profile != target:
            raise UsageError(
                f"{folder} holds records for {manifest.profile}, not for {target}",
                where="--tune-log",
                remedy="name another folder",
            )
    store.write_manifest(folder, manifest.having(origin))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:500]


def _without_keys(arguments: Sequence[str]) -> list[str]:
    """A command line as it may be written down: the keys of servers and trackers stay secret."""
    shown = [re.sub(r"(rpc://[^/]*/).*", r"\1KEY", argument) for argument in arguments]
    shown = [re.sub(r"^(--key=).*", r"\1KEY", argument) for argument in shown]
    return ["KEY" if before == "--key" else one for before, one in zip(["", *shown], shown, strict=False)]
