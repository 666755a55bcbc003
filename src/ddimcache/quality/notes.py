"""Writes the notes on quality into a bundle."""

from __future__ import annotations

import json

from ddimcache.compiler.bundle import with_file
from ddimcache.records import to_json
from ddimcache.runtime.bundle import Bundle
from ddimcache.runtime.quality_notes import NOTES_NAME, QualityNotes


def keep_notes(bundle: Bundle, notes: QualityNotes) -> Bundle:
    """Write the bundle again with these notes and open it; raises as ``write_bundle``."""
    text = json.dumps(to_json(notes), indent=1, allow_nan=False)
    return with_file(bundle, NOTES_NAME, text.encode() + b"\n")
