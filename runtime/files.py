"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ddimcache.errors import DdimcacheError, UsageError

CACHE_VARIABLE = "DDIMCACHE_CACHE"


def cache_folder() -> Path:
    """Return the folder for what may be made again (bundles, a device's limits); it need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "ddimcache"


def check_can_write(path: Path, option: str) -> None:
    """Raise :class:`UsageError` naming the option when a file could not be written to ``path`` later on."""
    parent = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"{path} is a folder", where=option, remedy="name a file")
    if not parent.is_dir():
        raise UsageError(f"folder {parent} does not exist", where=option, remedy="make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError(f"folder {parent} is not writable", where=option, remedy="choose another")


def make_folder(path: Path, option: str) -> None:
    """Make a folder with those above it, if it is not there.

    Raises :class:`UsageError` naming the option where that cannot be, or nothing could be written in it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(
            f"{path} is no folder, or below a file", where=option, remedy="name another"
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be made: {error.strerror}", where=option) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"folder {path} is not writable", where=option, remedy="choose another")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its name, force it to the disk, and rename it.

    Raises :class:`DdimcacheError` when the disk is full or fails; what was there before stays then.
    """
    try:
        _write(path.absolute(), content)
    except OSError as error:
        raise DdimcacheError(f"cannot be written: {error.strerror or error}", where=path) from error


def _write(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
