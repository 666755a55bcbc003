"""Pictures that jobs of a pool leave in a folder, and whether what an earlier run left is still whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ddimcache.records import JsonValue
from ddimcache.runtime.files import write_atomically


def keep_picture(folder: Path, name: str, content: bytes) -> dict[str, JsonValue]:
    """Write a picture's bytes and return ``image`` and ``sha256`` for the log of results."""
    write_atomically(folder / name, content)
    return {"image": name, "sha256": hashlib.sha256(content).hexdigest()}


def is_kept(result: JsonValue, folder: Path) -> bool:
    """Whether the picture of a result in a log is in the folder as it was written."""
    try:
        content = (folder / Path(result["image"]).name).read_bytes()
        return hashlib.sha256(content).hexdigest() == result["sha256"]
    except (OSError, KeyError, TypeError):
        return False
