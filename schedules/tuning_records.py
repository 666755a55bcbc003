"""Tuning records: what was decided for single workloads on a device, kept as lines of JSON.

A folder of ``tune_logs/`` holds ``manifest.json``, which says for which device profile its records are and
on which devices they came about, and ``records.jsonl``, a :class:`TuningRecord` a line. A later line replaces
an earlier one of the same workload, but a modelled one never one that was measured. Both come from outside
and are trusted with nothing: sizes and types are checked, decisions must be in the family's space
(``schedules/spaces.py``), and what is not understood is skipped and told.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ddimcache.compiler.options import NO_RECORDS
from ddimcache.compiler.target import Decisions, DeviceProfile, profile
from ddimcache.errors import BundleError, UsageError
from ddimcache.kernels.workload import Workload
from ddimcache.manifest import Count, Size
from ddimcache.records import Limits, RecordProblem, from_json, loads, to_json
from ddimcache.schedules.spaces import VERSIONS, problem

FORMAT = 2
MANIFEST, RECORDS = "manifest.json", "records.jsonl"

LARGEST_FILE = 64 << 20
LONGEST_LINE = 4096
_MOST_TOLD = 5

Method = Literal["measured", "modelled"]
_Word = Annotated[str, Limits(minimum=1, maximum=100, pattern=r"[A-Za-z0-9_.,:+ ()/@-]+")]
_Text = Annotated[str, Limits(maximum=500)]
_Seconds = Annotated[float, Limits(minimum=0, maximum=1e6)]


@dataclass(frozen=True)
class TuningRecord:
    """Decisions for a workload on a device profile.

    ``op``, ``shape``, ``dtype`` and ``weights`` are those of a :class:`Workload`; ``seconds`` is the median
    of a launch, ``default_seconds`` that of the defaults in turns with it, ``error`` the largest difference
    to the reference as a share of its largest number (``None`` for a model, which runs nothing). ``version``
    is the family's (:data:`VERSIONS`), ``tool`` what found it, ``origin`` what the manifest calls the device
    that ran it. Without any ``decisions`` it says that the defaults are best, whatever a model thinks.
    """

    op: _Word
    shape: Annotated[tuple[Size, ...], Limits(minimum=1, maximum=16)]
    dtype: _Word
    weights: _Word
    device: _Word
    decisions: Annotated[dict[str, int], Limits(maximum=32)]
    seconds: _Seconds
    default_seconds: _Seconds
    error: Annotated[float, Limits(minimum=0)] | None
    method: Method
    version: Count
    tool: _Word
    origin: Annotated[str, Limits(maximum=40)] = ""

    @property
    def workload(self) -> Workload:
        """What the record is about."""
        return Workload(self.op, self.shape, self.dtype, self.weights)

    @property
    def ratio(self) -> float:
        """Its time over the defaults'."""
        return self.seconds / max(self.default_seconds, 1e-12)


@dataclass(frozen=True)
class Origin:
    """A device on which records came about: its own name and its driver's, or what was modelled, and how."""

    method: Method
    device: _Text
    driver: _Text
    versions: Annotated[dict[str, str], Limits(maximum=32)]
    date: _Text
    command: _Text
    note: _Text = ""

    @property
    def key(self) -> str:
        """What records call it: the same for the same device, driver and method."""
        text = json.dumps([self.method, self.device, self.driver])
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class TuningManifest:
    """Where the records of a folder came about: ``profile`` is the one that reads them."""

    format: int
    profile: _Word
    origins: Annotated[dict[str, Origin], Limits(maximum=256)] = field(default_factory=dict)

    def having(self, origin: Origin) -> TuningManifest:
        """This manifest with ``origin`` as it is now; a note of before stays."""
        before = self.origins.get(origin.key)
        if before is not None and not origin.note:
            origin = dataclasses.replace(origin, note=before.note)
        return dataclasses.replace(self, origins={**self.origins, origin.key: origin})


@dataclass(frozen=True)
class TuningLog:
    """The records of a folder that are good for a profile, and what was skipped, in words."""

    records: dict[Workload, TuningRecord] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()

    @property
    def decisions(self) -> dict[Workload, Decisions]:
        """What was decided, by workload."""
        return {workload: record.decisions for workload, record in self.records.items()}


def shipped_folder(target: str) -> Path:
    """The folder of the records that come with the package for ``target``; it need not exist."""
    return Path(__file__).absolute().parent.parent / "tune_logs" / target


def folder_for(target: str, chosen: str | None) -> Path | None:
    """The folder that a ``--tune-log`` means, the shipped one without; ``None`` for none at all."""
    if chosen == NO_RECORDS:
        return None
    folder = Path(chosen) if chosen is not None else shipped_folder(target)
    return folder if chosen is not None or (folder / MANIFEST).is_file() else None


def tuned_profile(target: str, chosen: str | None = None) -> tuple[DeviceProfile, tuple[str, ...]]:
    """The profile of ``target`` with the decisions of its records, and what of them was skipped, in words.

    Raises :class:`UsageError` for a ``chosen`` folder that is no folder of records for ``target``, and
    :class:`BundleError` for a manifest that cannot be read.
    """
    device = profile(target)
    folder = folder_for(target, chosen)
    if folder is None:
        return device, ()
    log = read_log(folder, device)
    skipped = log.skipped
    if len(skipped) > _MOST_TOLD:
        skipped = (*skipped[:_MOST_TOLD], f"{folder}: {len(skipped) - _MOST_TOLD} more records are skipped")
    return dataclasses.replace(device, tuned=log.decisions), skipped


def read_manifest(folder: Path) -> TuningManifest:
    """The manifest of ``folder``; raises :class:`UsageError` without one, else :class:`BundleError`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no {MANIFEST}, so it is no folder of tuning records",
            where="--tune-log",
            remedy="`ddimcache tune` makes one",
        )
    try:
        content = loads(_content(path))
        if isinstance(content, dict) and content.get("format") == 1:
            return _of_one_origin(content)
        manifest = from_json(TuningManifest, content)
    except (RecordProblem, UnicodeDecodeError) as error:
        raise BundleError(f"cannot be read: {error}", where=path) from error
    if manifest.format != FORMAT:
        raise BundleError(f"format is {manifest.format}, this version reads 1 to {FORMAT}", where=path)
    return manifest


def _of_one_origin(content: dict[str, Any]) -> TuningManifest:
    """A manifest of format 1, which knew one device and whose records name none."""
    facts = {key: value for key, value in content.items() if key not in ("format", "profile")}
    origin = from_json(Origin, facts)
    profile_name = content.get("profile")
    return from_json(
        TuningManifest, {"format": FORMAT, "profile": profile_name, "origins": {origin.key: to_json(origin)}}
    )


def read_log(folder: Path, device: DeviceProfile, method: Method | None = None) -> TuningLog:
    """The records of ``folder`` for ``device``, of one ``method`` or the best of both: what was measured goes
    before what was modelled. Errors as of :func:`tuned_profile`."""
    manifest = read_manifest(folder)
    if manifest.profile != device.name:
        raise UsageError(
            f"{folder} was tuned for {manifest.profile}, not for {device.name}", where="--tune-log"
        )
    path = folder / RECORDS
    records: dict[Workload, TuningRecord] = {}
    skipped = []
    for number, line in enumerate(lines_of(path), 1):
        try:
            record = from_json(TuningRecord, read_line(line))
            if record.device != device.name:
                raise RecordProblem("device", f"{record.device}, not {device.name}")
            if (reason := stale(record, device)) is not None:
                raise RecordProblem("", reason)
        except (RecordProblem, UnicodeDecodeError) as error:
            skipped.append(f"{path}, line {number} is skipped: {error}"[:400])
            continue
        if method is not None and record.method != method:
            continue
        before = records.get(record.workload)
        if before is None or (before.method, record.method) != ("measured", "modelled"):
            # What comes later was compared with what was there.
            records[record.workload] = record
    return TuningLog(records, tuple(skipped))


def stale(record: TuningRecord, device: DeviceProfile) -> str | None:
    """Why a record cannot be used any more, or ``None``."""
    workload = record.workload
    if (reason := workload.problem()) is not None:
        return reason
    if record.version != VERSIONS[record.op]:
        return f"stale: of version {record.version} of {record.op}, now {VERSIONS[record.op]}"
    reason = problem(device.tiles, workload, record.decisions)
    return None if reason is None else f"stale: {reason}"


def read_line(line: bytes) -> Any:
    """A line as JSON; raises :class:`RecordProblem` for one that is too long or none."""
    if len(line) > LONGEST_LINE:
        raise RecordProblem("", f"{len(line)} bytes, at most {LONGEST_LINE} are read")
    return loads(line)


def _content(path: Path) -> bytes:
    """The bytes of a plain file of a size that is believable; raises :class:`BundleError`."""
    try:
        # A fifo would be waited for.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError("is no plain file", where=path)
        if status.st_size > LARGEST_FILE:
            raise BundleError(f"{status.st_size} bytes, at most {LARGEST_FILE} are read", where=path)
        with path.open("rb") as stream:
            return stream.read(LARGEST_FILE)
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=path) from error


def lines_of(path: Path) -> list[bytes]:
    """The lines of a file that :func:`append` wrote; none where there is no file."""
    return [line for line in _content(path).split(b"\n") if line.strip()] if path.exists() else []


def append(path: Path, entry: Any) -> None:
    """Appends a record as a line, whole or not at all: a kill leaves a file that can be read and appended to.

    Raises OSError.
    """
    line = json.dumps(to_json(entry), sort_keys=True, allow_nan=False).encode() + b"\n"
    if len(line) > LONGEST_LINE:
        raise AssertionError(f"a record of {len(line)} bytes would not be read again")
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        # What a crash of the machine cut off stays a line of its own.
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(handle, line)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(folder: Path, manifest: TuningManifest) -> None:
    """Writes or replaces the manifest of ``folder``; raises OSError."""
    scratch = folder / f".{MANIFEST}.{os.getpid()}"
    scratch.write_text(json.dumps(to_json(manifest), indent=1) + "\n", encoding="utf-8")
    scratch.replace(folder / MANIFEST)
