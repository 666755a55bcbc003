"""Writes a bundle as a whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ddimcache.compiler.scratch import OLD, exchange, folder_beside
from ddimcache.errors import BundleError, UsageError
from ddimcache.manifest import MANIFEST_NAME, Manifest, file_entry, is_file_name
from ddimcache.records import RecordProblem, from_json, to_json
from ddimcache.runtime.bundle import Bundle, open_bundle


def check_destination(out_dir: Path) -> None:
    """Say now what would stop :func:`write_bundle` at the end of a long compilation.

    Raises :class:`UsageError` when ``out_dir`` is a file, a folder that holds something other than a bundle,
    or below a folder that is missing or not writable.
    """
    parent = out_dir.absolute().parent
    if not parent.is_dir():
        raise UsageError("the folder does not exist", where=parent, remedy="make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UsageError("the folder is not writable", where=parent, remedy="choose another with -o")
    if out_dir.is_symlink():
        raise UsageError(
            "is a link, which would be replaced", where=out_dir, remedy="name the folder that it leads to"
        )
    if out_dir.exists() and not out_dir.is_dir():
        raise UsageError(
            "is there and is no folder", where=out_dir, remedy="remove it or choose another name"
        )
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / MANIFEST_NAME).is_file():
        raise UsageError(
            "holds files that are no bundle, and would be replaced",
            where=out_dir,
            remedy="choose another name with -o",
        )


def write_bundle(out_dir: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Manifest:
    """Write ``files`` and their manifest into ``out_dir``, replacing a bundle that is there.

    Parameters
    ----------
    out_dir : the bundle's folder; its parent exists.
    manifest : everything but ``files``, which is filled in here.
    files : contents, or a file to copy them from, by name inside the bundle (``unet.so``,
        ``tokenizer/vocab.json``).

    Returns the manifest as written. The folder appears under its name only when every byte is on the disk, so
    nobody can open a half-written bundle. Raises :class:`UsageError` as :func:`check_destination`, and
    :class:`BundleError` when manifest and files contradict each other, or the disk is full or fails.
    """
    out_dir = out_dir.absolute()
    check_destination(out_dir)
    try:
        return _write(out_dir, manifest, files)
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror or error}", where=out_dir) from error


def write_weights(weights: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a component's weights; raises :class:`BundleError` when the disk is full or fails."""
    try:
        save_file(dict(weights), path)
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{path.name} cannot be written: {error}", where=path.parent.parent, remedy="free some space"
        ) from error


def with_file(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """Write a bundle again with one more file, or with another content of it, and open it.

    Of a bundle at one of its sizes the whole is written. Raises as :func:`write_bundle`.
    """
    files: dict[str, bytes | Path] = {each: bundle.path(each) for each in bundle.manifest.files}
    write_bundle(bundle.folder, bundle.whole or bundle.manifest, {**files, name: content})
    return open_bundle(bundle.folder, sums=False)


def _write(out_dir: Path, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Manifest:
    with folder_beside(out_dir) as building:
        for name, content in files.items():
            _check_name(name)
            target = building / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)
        entries = {name: file_entry(building / name) for name in sorted(files)}
        manifest = dataclasses.replace(manifest, files=entries)
        _check(manifest)
        text = json.dumps(to_json(manifest), indent=1, ensure_ascii=False, allow_nan=False)
        (building / MANIFEST_NAME).write_text(text + "\n", encoding="utf-8")
        building.chmod(0o755)
        _sync_tree(building)
        put_in_place(building, out_dir)
    return manifest


def _check_name(name: str) -> None:
    if not is_file_name(name) or name == MANIFEST_NAME:
        raise BundleError(f"{name!r} is not a plain relative file name inside the bundle")


def _check(manifest: Manifest) -> None:
    try:
        again = from_json(Manifest, json.loads(json.dumps(to_json(manifest), allow_nan=False)))
    except (RecordProblem, ValueError, TypeError) as error:
        raise BundleError(str(error), where="manifest to write") from error
    problem = again.first_problem()
    if problem is not None:
        raise BundleError(problem, where="manifest to write")


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(building: Path, out_dir: Path) -> None:
    """Give a finished folder its name, in place of what has it; both are on the same file system.

    Where there is something, the name is never missing, and ``building`` may be that afterwards.
    """
    if not out_dir.exists():
        building.rename(out_dir)
    elif not exchange(building, out_dir):
        # A folder cannot be renamed onto a full one: step the old one aside, and back if the new one fails.
        with folder_beside(out_dir) as aside:
            old = aside / OLD
            out_dir.rename(old)
            try:
                building.rename(out_dir)
            except OSError:
                old.rename(out_dir)
                raise
    _sync(out_dir.parent)
