"""Keeps compiled bundles, so that a model is compiled once for each set of options.

Layout: ``$DDIMCACHE_CACHE`` (default ``~/.cache/ddimcache``) holds ``bundles/<key>``, each a bundle;
``bundles/<key>.lock``, held while somebody compiles it; and ``fingerprints.json``, the sums of model files.
A key names the model's contents, the options, the versions and the compiler's own sources. A bundle appears
under its key by a rename, so a half-written one is never found; what a killed process left is removed by the
next one that holds the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ddimcache.compiler.fingerprint import compiler_digest, folder_fingerprint, versions
from ddimcache.compiler.options import CompileOptions
from ddimcache.errors import UsageError
from ddimcache.manifest import file_entry
from ddimcache.runtime.files import CACHE_VARIABLE, cache_folder
from ddimcache.schedules.tuning_records import RECORDS, folder_for


def bundle_key(model_dir: Path, options: CompileOptions) -> str:
    """Return the key, 64 hexadecimal digits, of a model compiled with ``options`` by this very compiler."""
    folder = folder_for(options.target, options.tune_log)
    records = None if folder is None else folder / RECORDS
    facts = {
        "model": folder_fingerprint(model_dir, cache_folder() / "fingerprints.json"),
        "options": options.to_json(),
        "loras": [_digest(choice.path) for choice in options.lora_choices],
        # No more of the folder: trials that won nothing change no bundle.
        "tune log": file_entry(records).sha256 if records is not None and records.is_file() else None,
        "versions": versions(),
        "compiler": compiler_digest(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        return file_entry(path).sha256
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", where="--lora") from error


def kept_bundle(
    model_dir: Path,
    options: CompileOptions,
    compile_to: Callable[[Path], object],
    is_good: Callable[[Path], bool],
    say: Callable[[str], object],
) -> Path:
    """Return the kept bundle of a model and options, compiling it when there is none yet.

    Parameters
    ----------
    model_dir : the diffusers folder.
    options : for the key.
    compile_to : writes the bundle to the path it is given, as a whole or not at all.
    is_good : whether a kept bundle can still be used; one that cannot is compiled again.
    say : told what takes long.

    Raises :class:`UsageError` when the cache folder cannot be written, and whatever ``compile_to`` raises.
    """
    bundles = cache_folder() / "bundles"
    try:
        bundles.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(bundles, error) from error
    key = bundle_key(model_dir, options)
    path = bundles / key
    with _lock(bundles / f"{key}.lock", say):
        if path.exists():
            if is_good(path):
                return path
            say(f"{path} is damaged, compiling it again")
            shutil.rmtree(path)
        _remove_left_behind(bundles, key)
        compile_to(path)
    return path


def _remove_left_behind(bundles: Path, key: str) -> None:
    """Remove what killed compilations left: of this key at once, of others when it is a day old."""
    day_ago = time.time() - 24 * 3600
    for path in bundles.glob(".*"):
        with suppress(OSError):
            if path.name.startswith(f".{key}.") or path.stat().st_mtime < day_ago:
                shutil.rmtree(path)


@contextmanager
def _lock(path: Path, say: Callable[[str], object]) -> Iterator[None]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _not_writable(path.parent, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is compiling the same model, waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _not_writable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"compiled models cannot be kept here: {error.strerror}",
        where=folder,
        remedy=f"set {CACHE_VARIABLE} to a folder that can be written",
    )
