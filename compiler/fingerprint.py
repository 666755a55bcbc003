"""Names a model folder and the compiler by their contents, so that a compiled bundle can be found again."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ddimcache.manifest import FORMAT_VERSION, file_entry

_SOURCE_FOLDERS = ("compiler", "kernels", "schedules")
_SOURCE_SUFFIXES = (".py", ".cl", ".h", ".json", ".txt")
_PACKAGES = ("ddimcache", "apache-tvm", "apache-tvm-ffi", "torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """Return the versions of what takes part in a compilation; packages that are missing are left out."""
    found = {"bundle format": str(FORMAT_VERSION)}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package == "ddimcache":
                from ddimcache import __version__

                found[package] = __version__
    return found


def compiler_digest() -> str:
    """Return a sha256 over the sources of compiler, kernels and schedules: editing a pass changes it."""
    package = Path(__file__).absolute().parent.parent
    files = (
        path
        for folder in _SOURCE_FOLDERS
        for path in (package / folder).rglob("*")
        if path.suffix in _SOURCE_SUFFIXES and "__pycache__" not in path.parts
    )
    return _digest((path.relative_to(package).as_posix(), file_entry(path).sha256) for path in sorted(files))


def folder_fingerprint(folder: Path, memo: Path | None = None) -> str:
    """Return a sha256 over names and contents of all files of a folder; hidden ones do not count.

    Links are followed, to folders too: that of a component may be another pipeline's.

    ``memo`` names a JSON file that keeps the sums of files by path, size and times, so that gigabytes of
    weights are read once; None reads them every time. Raises OSError.
    """
    known = _read_memo(memo)
    fresh: dict[str, list[int | str]] = {}
    pairs = []
    for path in sorted(_files(folder, frozenset())):
        relative = path.relative_to(folder)
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        key = str(path.absolute())
        entry = known.get(key)
        digest = entry[-1] if entry and entry[:-1] == stamp else file_entry(path).sha256
        fresh[key] = [*stamp, digest]
        pairs.append((relative.as_posix(), str(digest)))
    if memo is not None and any(known.get(key) != entry for key, entry in fresh.items()):
        _write_memo(memo, {**known, **fresh})
    return _digest(pairs)


def _files(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield the files that are not hidden; ``above`` are the real folders on the way, against loops."""
    around = above | {folder.resolve()}
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_file():
            yield path
        elif path.is_dir() and path.resolve() not in around:
            yield from _files(path, around)


def _digest(pairs: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256(json.dumps(list(pairs)).encode()).hexdigest()


def _read_memo(memo: Path | None) -> dict[str, list[int | str]]:
    if memo is None:
        return {}
    try:
        content = json.loads(memo.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_memo(memo: Path, content: dict[str, list[int | str]]) -> None:
    # A memo that cannot be kept costs time, nothing else.
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".memo.", dir=memo.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        os.replace(name, memo)
    except OSError:
        return
