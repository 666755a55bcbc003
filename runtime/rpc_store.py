"""Files that clients have sent to a server, by their sha256, and bundles made of them.

Layout of the folder: ``files/<sha256>``, whole and checked; ``partial/<sha256>``, what has arrived of a file;
``bundles/<sha256 of the manifest>/``, links to files. Names come from sums that are checked to be 64
hexadecimal digits, and from a manifest that passed :func:`~ddimcache.runtime.bundle.parse_manifest`, so
nothing is ever written outside the folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from ddimcache.errors import BundleError, DeviceError, UsageError
from ddimcache.manifest import MANIFEST_NAME, file_entry
from ddimcache.runtime.bundle import Bundle, open_bundle, parse_manifest
from ddimcache.runtime.files import write_atomically

_SPARE_BYTES = 64 << 20


class Store:
    """The server's folder; makes it, and raises :class:`UsageError` when it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        try:
            for name in ("files", "partial", "bundles"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}", where="--store") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(f"{folder} is not writable", where="--store")

    def missing(self, manifest_text: bytes) -> list[tuple[str, int]]:
        """Return (name in the bundle, bytes already here) of every file that is not here as a whole.

        Raises :class:`BundleError` for a bad manifest, :class:`DeviceError` when the rest would not fit on
        the disk.
        """
        manifest = parse_manifest(manifest_text)
        result, needed = [], _SPARE_BYTES
        for name, entry in manifest.files.items():
            if not self._file(entry.sha256).is_file():
                partial = self._partial(entry.sha256)
                here = min(partial.stat().st_size, entry.bytes) if partial.is_file() else 0
                result.append((name, here))
                needed += entry.bytes - here
        free = shutil.disk_usage(self.folder).free
        if result and free < needed:
            raise DeviceError(
                f"{needed} bytes are needed and {free} are free",
                where=f"the server's store {self.folder}",
                remedy="remove what is old there",
            )
        return result

    def write(self, sha256: str, offset: int, content: bytes) -> int:
        """Write a piece of a file at ``offset``, at most at its end; return how many bytes are here."""
        path = self._partial(sha256)
        with path.open("ab") as stream:
            here = stream.tell()
            if offset > here:
                raise BundleError(f"a piece for byte {offset} came where {here} are here", where=sha256)
            stream.truncate(offset)
            stream.seek(offset)
            stream.write(content)
            return stream.tell()

    def finish(self, sha256: str) -> None:
        """Take a file in when all of it is here; raises :class:`BundleError` when its sum is not its name."""
        path = self._partial(sha256)
        if not path.is_file():
            path.touch()
        if file_entry(path).sha256 != sha256:
            path.unlink()
            raise BundleError("arrived altered", where=sha256, remedy="send it again")
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        path.replace(self._file(sha256))

    def bundle(self, manifest_text: bytes) -> Bundle:
        """Return the bundle of a manifest whose files are all here, every sum checked again."""
        manifest = parse_manifest(manifest_text)
        folder = self.folder / "bundles" / hashlib.sha256(manifest_text).hexdigest()
        for name, entry in manifest.files.items():
            source, link = self._file(entry.sha256), folder / name
            if not source.is_file():
                raise BundleError("has not been sent", where=name)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                _link(source, link)
        write_atomically(folder / MANIFEST_NAME, manifest_text)
        try:
            return open_bundle(folder)
        except BundleError:
            # A damaged file must not stay: the next client sends it again.
            for entry in manifest.files.values():
                source = self._file(entry.sha256)
                if source.is_file() and file_entry(source) != entry:
                    source.unlink()
            shutil.rmtree(folder)
            raise

    def _file(self, sha256: str) -> Path:
        return self.folder / "files" / _checked(sha256)

    def _partial(self, sha256: str) -> Path:
        return self.folder / "partial" / _checked(sha256)


def _link(source: Path, link: Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links (Android's shared storage)."""
    try:
        os.link(source, link)
    except OSError:
        shutil.copyfile(source, link)


def _checked(sha256: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", sha256) is None:
        raise BundleError(f"{sha256[:80]!r} is not a sha256 in lower-case hexadecimal", where="upload")
    return sha256
