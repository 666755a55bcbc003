"""Reads a bundle, trusting nothing in it: version, manifest, then size and sha256 of every file."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ddimcache.errors import BundleError
from ddimcache.launches import LaunchLists
from ddimcache.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest, file_entry
from ddimcache.picture_sizes import PlainNames, launches_at, manifest_at
from ddimcache.records import JsonValue, RecordProblem, from_json, loads

_LARGEST_MANIFEST = 64 << 20
_COMPILE_AGAIN = "compile it again with `ddimcache compile`"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest and files have been checked.

    What :meth:`at` returns has the manifest of a single picture size, and beside it that of the whole bundle.
    """

    folder: Path
    manifest: Manifest
    names: PlainNames = field(default=PlainNames())
    whole: Manifest | None = None

    def at(self, image_size: tuple[int, int] | None) -> Bundle:
        """The bundle as one picture size has it alone, (width, height) in pixels; the first for None.

        Raises :class:`UsageError` for a size that it does not have.
        """
        if self.whole is not None and image_size in (None, self.manifest.image_size):
            return self
        whole = self.whole or self.manifest
        names = PlainNames.of_size(whole, whole.size_of(image_size))
        return Bundle(self.folder, manifest_at(whole, image_size), names, whole)

    def function_name(self, component: str, function: str) -> str:
        """What the library of a component calls a function of this size."""
        every = (self.whole or self.manifest).components[component].functions
        return next(name for name, plain in self.names.of(every).items() if plain == function)

    def path(self, name: str) -> Path:
        """Return where a file of the bundle is; raises KeyError for one that the manifest does not list."""
        if name not in self.manifest.files:
            raise KeyError(name)
        return self.folder / name

    @property
    def tokenizer(self) -> Path:
        """The folder with the tokenizer's files."""
        return self.folder / self.manifest.tokenizer

    @property
    def identity(self) -> str:
        """The sha256 of the manifest, and so of everything in the bundle."""
        return hashlib.sha256((self.folder / MANIFEST_NAME).read_bytes()).hexdigest()

    def kernel_sources(self, component: str) -> dict[str, str]:
        """Return the device sources of a component by kernel name, empty where the target leaves none."""
        name = self.manifest.components[component].sources
        if name is None:
            return {}
        try:
            return from_json(_Sources, {"sources": loads(self.path(name).read_bytes())}).sources
        except RecordProblem as error:
            raise BundleError(f"not a JSON object of texts: {error}", where=self.path(name)) from error

    def launches(self, component: str) -> LaunchLists:
        """Return the launches of a component's functions.

        Raises :class:`BundleError` when the file is no such list or contradicts the manifest's counts.
        """
        entry = self.manifest.components[component]
        path = self.path(entry.launches)
        try:
            lists = launches_at(from_json(LaunchLists, loads(path.read_bytes())), self.names)
        except RecordProblem as error:
            raise BundleError(str(error), where=path, remedy=_COMPILE_AGAIN) from error
        for function in entry.functions:
            expected = {
                kernel.name: kernel.calls[function] for kernel in entry.kernels if function in kernel.calls
            }
            found = Counter(launch.kernel for launch in lists.functions.get(function, ()))
            if found != expected:
                [name, *_] = sorted(
                    name for name in {*found, *expected} if found[name] != expected.get(name, 0)
                )
                raise BundleError(
                    f"function {function!r} launches {name} {found[name]} times, the manifest says "
                    f"{expected.get(name, 0)}",
                    where=path,
                    remedy=_COMPILE_AGAIN,
                )
        return lists


@dataclass(frozen=True)
class _Sources:
    sources: dict[str, str]


def is_bundle(path: Path) -> bool:
    """Whether a folder says of itself that it is a bundle, good or not."""
    return (path / MANIFEST_NAME).is_file()


def parse_manifest(text: str | bytes, where: Path | str = MANIFEST_NAME) -> Manifest:
    """Read and check the text of a manifest; raises :class:`BundleError` that names the first thing wrong."""
    try:
        value = loads(text)
    except RecordProblem as problem:
        raise BundleError(str(problem), where=where, remedy=_COMPILE_AGAIN) from problem
    _check_version(value, where)
    try:
        manifest = from_json(Manifest, value)
    except RecordProblem as problem:
        raise BundleError(str(problem), where=where, remedy=_COMPILE_AGAIN) from problem
    problem_text = manifest.first_problem()
    if problem_text is not None:
        raise BundleError(problem_text, where=where, remedy=_COMPILE_AGAIN)
    return manifest


def _check_version(value: JsonValue, where: Path | str) -> None:
    # Before anything else: another version may have other keys, and its version is what to name then.
    version = value.get("format_version") if isinstance(value, dict) else None
    if version is None:
        raise BundleError("has no format_version, so it is no bundle of ours", where=where)
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(
            f"format_version is {version!r}, this runtime reads {FORMAT_VERSION}",
            where=where,
            remedy=_COMPILE_AGAIN,
        )


def open_bundle(path: Path, *, sums: bool = True) -> Bundle:
    """Open a bundle for use; executes nothing in it.

    Parameters
    ----------
    path : the bundle's folder.
    sums : also read every file for its sha256, not its size alone.

    Raises :class:`BundleError` that names the first thing wrong: the folder, the manifest's version, a key, a
    contradiction, a missing file, a size, a sum, a file that is a link out of the folder, or an extra file.
    """
    if not path.is_dir():
        raise BundleError("is not a folder" if path.exists() else "does not exist", where=path)
    manifest_path = path / MANIFEST_NAME
    try:
        if manifest_path.stat().st_size > _LARGEST_MANIFEST:
            raise BundleError("is larger than any manifest", where=manifest_path)
        text = manifest_path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"has no {MANIFEST_NAME}, so it is no bundle", where=path) from error
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=manifest_path) from error
    manifest = parse_manifest(text, manifest_path)
    for name in manifest.files:
        _check_file(path, name, manifest, sums)
    _check_nothing_else(path, manifest)
    return Bundle(path, manifest)


def _check_file(folder: Path, name: str, manifest: Manifest, sums: bool) -> None:
    path, expected = folder / name, manifest.files[name]
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError("is a link that leads out of the bundle", where=path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BundleError("is not a file", where=path, remedy=_COMPILE_AGAIN)
        if size != expected.bytes:
            raise BundleError(
                f"has {size} bytes, the manifest says {expected.bytes}", where=path, remedy="copy it again"
            )
        if sums and file_entry(path).sha256 != expected.sha256:
            raise BundleError(
                "its sha256 is not the manifest's: the file was altered", where=path, remedy="copy it again"
            )
    except FileNotFoundError as error:
        raise BundleError(
            "is in the manifest but not in the bundle", where=path, remedy="copy it again"
        ) from error
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", where=path) from error


def _check_nothing_else(folder: Path, manifest: Manifest) -> None:
    known = {MANIFEST_NAME, *manifest.files}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known:
            raise BundleError("is not in the manifest", where=path, remedy="remove it")
