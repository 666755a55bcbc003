"""Files that clients have sent to a server, by their sha256, and bundles made of them.

Layout of the folder: ``files/<sha256>``, whole and checked; ``partial/<sha256>``, what has arrived of a file;
``bundles/<sha256 of the manifest>/``, links to files, or copies where there are no hard links; ``work/``, a
folder for each client at work. Names come from sums that are checked to be 64 hexadecimal digits, and from a
manifest that passed :func:`~ddimcache.runtime.bundle.parse_manifest`, so nothing is ever written outside.

The store has a size. What was not used for longest goes when room is needed, never what the client at work
has opened or is sending.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddimcache.errors import BundleError, DeviceError, UsageError
from ddimcache.manifest import MANIFEST_NAME, FileEntry, file_entry
from ddimcache.runtime.bundle import Bundle, open_bundle, parse_manifest
from ddimcache.runtime.files import write_atomically

_SPARE_BYTES = 64 << 20
"""Left free on the disk, for manifests, logs and whoever else lives there."""

_CLAIM_SECONDS = 2.0
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Store:
    """The server's folder; makes it, and raises :class:`UsageError` when it cannot be written.

    ``limit_bytes`` is how large all of it may become; None: as large as the disk.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = folder.absolute()
        self._limit = limit_bytes
        self._expected: dict[str, FileEntry] = {}
        self._in_use: set[str] = set()
        try:
            for name in ("files", "partial", "bundles", "work"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}", where="--store") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(f"{folder} is not writable", where="--store")
        self._has_links = _has_hard_links(self.folder)

    def claim(self) -> None:
        """Take the folder for this process and its children; raises :class:`UsageError` when it is taken.

        What a killed server's clients left in ``work/`` is removed.
        """
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _CLAIM_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES) and time.monotonic() < deadline:
                    time.sleep(0.05)  # the last client of a killed server takes a moment to end
                    continue
                os.close(handle)
                raise UsageError(
                    f"{self.folder} is in use by another server", where="--store", remedy="name another"
                ) from error
        # Open as long as the process: the lock goes with it.
        for left in (self.folder / "work").iterdir():
            shutil.rmtree(left, ignore_errors=True)

    def work_folder(self) -> Path:
        """Make an empty folder for a client; whoever asked removes it."""
        return Path(tempfile.mkdtemp(dir=self.folder / "work"))

    def missing(self, manifest_text: bytes) -> list[tuple[str, int]]:
        """Return (name in the bundle, bytes already here) of every file that is not here as a whole.

        Makes room for them, and from now on takes these files and no others. Raises :class:`BundleError` for
        a bad manifest, :class:`DeviceError` when the bundle would fit neither the store nor the disk.
        """
        manifest = parse_manifest(manifest_text)
        expected = {entry.sha256: entry for entry in manifest.files.values()}
        for name, entry in manifest.files.items():
            if expected[entry.sha256] != entry:
                raise BundleError("another file has its sha256 and another size", where=name)
        result, needed, counted = [], 0, set()
        with self._failures_told():
            for name, entry in manifest.files.items():
                if not self._file(entry.sha256).is_file():
                    partial = self._partial(entry.sha256)
                    here = min(partial.stat().st_size, entry.bytes) if partial.is_file() else 0
                    result.append((name, here))
                    needed += 0 if entry.sha256 in counted else entry.bytes - here
                    counted.add(entry.sha256)
            self._expected = expected
            identity = _identity(manifest_text)
            total = sum(entry.bytes for entry in expected.values())
            if not self._has_links and not (self.folder / "bundles" / identity).is_dir():
                needed, total = needed + total, 2 * total
            if needed:
                self._make_room(needed, total, set(expected), identity)
        return result

    def write(self, sha256: str, offset: int, content: bytes) -> int:
        """Write a piece of a file at ``offset``, at most at its end; return how many bytes are here.

        Raises :class:`BundleError` for a file that :meth:`missing` was not asked about, or a piece that
        leaves a hole or reaches beyond the file's end, :class:`DeviceError` when the disk is full.
        """
        path = self._partial(sha256)
        entry = self._expected.get(sha256)
        if entry is None:
            raise BundleError("is not in the bundle that was announced", where=sha256)
        if offset + len(content) > entry.bytes:
            raise BundleError(
                f"a piece reaches to byte {offset + len(content)}, the file has {entry.bytes}", where=sha256
            )
        with self._failures_told(), path.open("ab", buffering=0) as stream:
            here = stream.tell()
            if offset > here:
                raise BundleError(f"a piece for byte {offset} came where {here} are here", where=sha256)
            stream.truncate(offset)
            left = memoryview(content)
            while left:
                left = left[stream.write(left) :]
            return offset + len(content)

    def finish(self, sha256: str) -> None:
        """Take a file in when all of it is here; raises :class:`BundleError` when its sum is not its name."""
        path = self._partial(sha256)
        entry = self._expected.get(sha256)
        if entry is None:
            raise BundleError("is not in the bundle that was announced", where=sha256)
        with self._failures_told():
            if not path.is_file():
                path.touch()
            if file_entry(path) != entry:
                path.unlink()
                raise BundleError("arrived altered", where=sha256, remedy="send it again")
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
            path.replace(self._file(sha256))

    def bundle(self, manifest_text: bytes) -> Bundle:
        """Return the bundle of a manifest whose files are all here, every sum checked again.

        It stays until :meth:`release`, whoever needs room.
        """
        manifest = parse_manifest(manifest_text)
        identity = _identity(manifest_text)
        folder = self.folder / "bundles" / identity
        for name, entry in manifest.files.items():
            if not self._file(entry.sha256).is_file():
                raise BundleError("has not been sent", where=name, remedy="send it again")
        with self._failures_told():
            for name, entry in manifest.files.items():
                link = folder / name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    (os.link if self._has_links else shutil.copyfile)(self._file(entry.sha256), link)
            write_atomically(folder / MANIFEST_NAME, manifest_text)
        try:
            bundle = open_bundle(folder)
        except BundleError:
            # A damaged file must not stay: the next client sends it again.
            for entry in manifest.files.values():
                source = self._file(entry.sha256)
                if source.is_file() and file_entry(source) != entry:
                    source.unlink()
            shutil.rmtree(folder)
            raise
        self._in_use.add(identity)
        return bundle

    def release(self) -> None:
        """Let the bundle that :meth:`bundle` returned go when room is needed."""
        self._in_use = set()

    def make_room(self, needed: int) -> None:
        """Make room for ``needed`` bytes in a client's :meth:`work_folder`; raises :class:`DeviceError`."""
        with self._failures_told():
            self._make_room(needed, 0, set(), "")

    def used_bytes(self) -> int:
        """Return how much is kept, a file that has several names counted once."""
        return sum({(found.st_dev, found.st_ino): found.st_size for _, found in _files(self.folder)}.values())

    def _make_room(self, needed: int, total: int, kept: set[str], identity: str) -> None:
        """Remove what was not used for longest until ``needed`` more bytes fit.

        ``total`` is the size of the bundle ``identity``, and ``kept`` are the sums of its files. Raises
        :class:`DeviceError` when nothing can be removed any more.
        """
        where = f"the server's store {self.folder}"
        if self._limit is not None and total > self._limit:
            remedy = "start `ddimcache serve` with a larger --store-bytes"
            raise DeviceError(
                f"the bundle has {total} bytes, the store takes {self._limit}", where=where, remedy=remedy
            )
        while self._excess(needed) > 0:
            victim = min(self._removable(kept, identity), default=None)
            if victim is None:
                free, remedy = shutil.disk_usage(self.folder).free - _SPARE_BYTES, "make room on its disk"
                if self._limit is not None and self._limit - self.used_bytes() < free:
                    free, remedy = self._limit - self.used_bytes(), "a larger --store-bytes gives more"
                raise DeviceError(
                    f"{needed} bytes are needed and {max(free, 0)} are free", where=where, remedy=remedy
                )
            if victim[1].is_dir():
                shutil.rmtree(victim[1])
            else:
                victim[1].unlink()

    def _excess(self, needed: int) -> int:
        beyond_disk = needed + _SPARE_BYTES - shutil.disk_usage(self.folder).free
        if self._limit is None:
            return beyond_disk
        return max(self.used_bytes() + needed - self._limit, beyond_disk)

    def _removable(self, kept: set[str], identity: str) -> Iterator[tuple[float, Path]]:
        """Yield (time of last use, path) of bundles, of files that no bundle has, and of broken-off ones."""
        for folder in (self.folder / "bundles").iterdir():
            if folder.name != identity and folder.name not in self._in_use:
                last = folder / MANIFEST_NAME
                yield last.stat().st_mtime if last.is_file() else 0.0, folder
        for place in ("files", "partial"):
            for path, found in _files(self.folder / place):
                if path.name not in kept and found.st_nlink == 1:
                    yield found.st_mtime, path

    def _file(self, sha256: str) -> Path:
        return self.folder / "files" / _checked(sha256)

    def _partial(self, sha256: str) -> Path:
        return self.folder / "partial" / _checked(sha256)

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        """Turn what the disk raises into an error that the client can read."""
        try:
            yield
        except OSError as error:
            remedy = "look at that disk"
            if error.errno in _NO_ROOM:
                remedy = "make room there; what has arrived is kept, and a second try goes on from there"
            raise DeviceError(
                f"cannot be written: {error.strerror or error}",
                where=f"the server's store {self.folder}",
                remedy=remedy,
            ) from error


def _identity(manifest_text: bytes) -> str:
    return hashlib.sha256(manifest_text).hexdigest()


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.stat()


def _has_hard_links(folder: Path) -> bool:
    """Whether a file may have two names there: Android refuses that to its shell, and FAT has none."""
    with tempfile.TemporaryDirectory(dir=folder / "work") as work:
        first = Path(work) / "first"
        first.touch()
        try:
            os.link(first, first.with_name("second"))
        except OSError:
            return False
    return True


def _checked(sha256: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", sha256) is None:
        raise BundleError(f"{sha256[:80]!r} is not a sha256 in lower-case hexadecimal", where="upload")
    return sha256
