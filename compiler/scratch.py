"""Hidden folders beside a bundle, for what is not whole yet, and the change of two names in one step."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

OLD = "old"
"""In such a folder, what had the name while there is no other way to change it."""
_SUFFIX = ".part"
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
# Of Linux's headers.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Make a folder on the file system of ``path``, which is removed in the end unless it was moved away.

    What killed processes left of folders for the same ``path`` is removed first: a folder is locked while
    somebody uses it, and a lock ends with its process. Raises OSError.
    """
    path = path.absolute()
    _remove_abandoned(path)
    made = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent))
    # Nobody takes it for abandoned before it is locked: only then it has the name that is looked for.
    folder = made.with_suffix(_SUFFIX)
    with ExitStack() as held:
        for name in (folder, made):
            held.callback(shutil.rmtree, name, ignore_errors=True)
        held.enter_context(_locked(made, fcntl.LOCK_EX))
        made.rename(folder)
        yield folder


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change names, so that neither name is ever missing.

    Returns False, and changes nothing, where the system or the file system cannot. Raises OSError.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _remove_abandoned(path: Path) -> None:
    # The library makes eight letters up.
    for left in path.parent.glob(f"{glob.escape(f'.{path.name}.')}????????{_SUFFIX}"):
        # A killed process may have moved the bundle there and nothing to its name.
        if not left.is_dir() or left.is_symlink() or ((left / OLD).exists() and not path.exists()):
            continue
        with suppress(OSError), _locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB, needed=True):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path, how: int, *, needed: bool = False) -> Iterator[None]:
    """Hold a lock on a folder; where the file system has none, go on without unless it is ``needed``."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, how)
        except OSError:
            if needed:
                raise
        yield
    finally:
        os.close(handle)
