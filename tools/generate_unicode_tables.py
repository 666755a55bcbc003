"""Writes ``runtime/cc/session/unicode_tables.cc`` from what the library ``tokenizers`` does.

The C++ tokenizer must do what that library does, and its crates carry Unicode versions of their own; so every
code point is asked for there. Only the values of combining classes, and which two code points make a
composite, are Python's.

usage: generate_unicode_tables.py > runtime/cc/session/unicode_tables.cc
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Regex, normalizers, pre_tokenizers

_CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
_HANGUL = range(0xAC00, 0xD7A4)
_NFD, _NFC, _LOWER = normalizers.NFD(), normalizers.NFC(), normalizers.Lowercase()
_HEADER = """// Written by tools/generate_unicode_tables.py; not to be edited.
#include "unicode_tables.h"

namespace ddimcache::session::unicode {
"""


def _of_class(pattern: str) -> list[int]:
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return [code for code in _CODES if splitter.pre_tokenize_str(chr(code))]


def _ranges(codes: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = -2
    for code in codes:
        if code != last + 1:
            if first >= 0:
                yield first, last
            first = code
        last = code
    if first >= 0:
        yield first, last


def _combining() -> list[tuple[int, int]]:
    """Code points and their combining classes; a mark that the library does not know is not reordered."""
    found = []
    for code in _CODES:
        value = unicodedata.combining(chr(code))
        # U+0334 has class 1 and U+0345 has 240, so one of them changes places with any other class.
        before, behind = f"\u0345{chr(code)}", f"{chr(code)}\u0334"
        moves = _NFD.normalize_str(before) != f"\u0345{_NFD.normalize_str(chr(code))}"
        moves |= _NFD.normalize_str(behind) != f"{_NFD.normalize_str(chr(code))}\u0334"
        if value and (moves or value in (1, 240)):
            found.append((code, value))
    return found


def _decompositions() -> list[tuple[int, int, int, int]]:
    """(code point, first, second or 0, whether the two make it again), as canonical decompositions."""
    found = []
    for code in _CODES:
        text = chr(code)
        if code in _HANGUL or _NFD.normalize_str(text) == text:
            continue
        first, *rest = (int(part, 16) for part in unicodedata.decomposition(text).split())
        pieces = [first, *rest]
        assert _NFD.normalize_str("".join(map(chr, pieces))) == _NFD.normalize_str(text), hex(code)
        found.append((code, first, rest[0] if rest else 0, int(_NFC.normalize_str(text) == text)))
    return found


def _lower() -> list[tuple[int, int, int]]:
    found = []
    for code in _CODES:
        lowered = _LOWER.normalize_str(chr(code))
        if lowered != chr(code):
            found.append((code, ord(lowered[0]), ord(lowered[1]) if len(lowered) > 1 else 0))
    return found


def _table(kind: str, name: str, rows: Iterable[tuple[int, ...]], text: Callable[[int], str] = hex) -> None:
    rows = list(rows)
    print(f"\nconst {kind} {name}[] = {{")
    line = ""
    for row in rows:
        entry = "{" + ", ".join(text(value) for value in row) + "},"
        if len(line) + len(entry) + 1 > 106:
            print(f"    {line}")
            line = ""
        line += (" " if line else "") + entry
    print(f"    {line}\n}};\nconst size_t {name}Count = {len(rows)};")


def main() -> None:
    """Print the file."""
    print(_HEADER, end="")
    _table("Range", "kLetters", _ranges(_of_class(r"\p{L}")))
    _table("Range", "kNumbers", _ranges(_of_class(r"\p{N}")))
    _table("Range", "kSpaces", _ranges(_of_class(r"\s")))
    _table("Mapping", "kLower", _lower())
    _table("Combining", "kCombining", _combining())
    _table("Decomposition", "kDecompositions", _decompositions())
    print("\n}  // namespace ddimcache::session::unicode")


if __name__ == "__main__":
    sys.exit(main())
