"""Reads from a shared library (ELF, 64 bits, little-endian) what it asks of the machine that loads it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ddimcache.errors import CompileError

MACHINE_X86_64, MACHINE_AARCH64 = 62, 183

_LOAD = 1
_DYNAMIC, _DYNAMIC_SYMBOLS, _VERSIONS_NEEDED = 6, 11, 0x6FFFFFFE
_TAG_END, _TAG_NEEDED, _TAG_SONAME = 0, 1, 14
_WEAK = 2


@dataclass(frozen=True)
class SharedLibrary:
    """What the loader is asked for.

    ``needed`` are the libraries that it loads first; ``undefined`` the symbols that other libraries must
    have, weak ones left out; ``versions`` the symbol versions asked for (such as ``GLIBC_2.27``);
    ``page_bytes`` the largest memory page with which it can be mapped.
    """

    machine: int
    soname: str
    needed: tuple[str, ...]
    undefined: frozenset[str]
    versions: frozenset[str]
    page_bytes: int


def read_shared_library(path: Path) -> SharedLibrary:
    """Read the file; raises :class:`CompileError` where it is no shared library of that kind, or is torn."""
    data = path.read_bytes()
    try:
        return _read(data)
    except (struct.error, IndexError, ValueError) as error:
        raise CompileError(f"is no whole 64-bit ELF library ({error})", where=path) from error


def _read(data: bytes) -> SharedLibrary:
    # class 2: 64 bits; encoding 1: little-endian; type 3: shared
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("wrong magic number, class or byte order")
    kind, machine = struct.unpack_from("<HH", data, 16)
    if kind != 3:
        raise ValueError(f"file type {kind}, a shared library has 3")
    program_offset, section_offset = struct.unpack_from("<QQ", data, 32)
    program_size, program_count, section_size, section_count = struct.unpack_from("<HHHH", data, 54)
    # name, type, flags, address, offset, size, link, info, alignment, entry size
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", data, section_offset + index * section_size)
        for index in range(section_count)
    ]
    alignments = []
    for index in range(program_count):
        # type, flags, offset, address, physical address, size in file, size in memory, alignment
        header = struct.unpack_from("<IIQQQQQQ", data, program_offset + index * program_size)
        if header[0] == _LOAD:
            alignments.append(header[7])
    needed: list[str] = []
    soname = ""
    undefined: set[str] = set()
    versions: set[str] = set()
    for section in sections:
        kind, offset, size, link = section[1], section[4], section[5], section[6]
        if kind == _DYNAMIC:
            for tag, value in struct.iter_unpack("<QQ", _slice(data, offset, size)):
                if tag == _TAG_END:
                    break
                if tag == _TAG_NEEDED:
                    needed.append(_text(data, sections[link], value))
                elif tag == _TAG_SONAME:
                    soname = _text(data, sections[link], value)
        elif kind == _DYNAMIC_SYMBOLS:
            symbols = struct.iter_unpack("<IBBHQQ", _slice(data, offset, size))
            for name, info, _, home, _, _ in symbols:
                if name and home == 0 and info >> 4 != _WEAK:
                    undefined.add(_text(data, sections[link], name))
        elif kind == _VERSIONS_NEEDED:
            versions |= _needed_versions(data, offset, section[7], sections[link])
    if not alignments:
        raise ValueError("nothing in it is mapped")
    return SharedLibrary(
        machine, soname, tuple(needed), frozenset(undefined), frozenset(versions), min(alignments)
    )


def _needed_versions(data: bytes, offset: int, count: int, strings: tuple[int, ...]) -> set[str]:
    found = set()
    for _ in range(count):
        # version, count of auxiliary entries, file name, first auxiliary entry, next record
        _, entries, _, first, following = struct.unpack_from("<HHIII", data, offset)
        place = offset + first
        for _ in range(entries):
            # hash, flags, other, name, next entry
            _, _, _, name, step = struct.unpack_from("<IHHII", data, place)
            found.add(_text(data, strings, name))
            place += step
        offset += following
    return found


def _slice(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise ValueError(f"a section ends at byte {offset + size} of {len(data)}")
    return data[offset : offset + size]


def _text(data: bytes, strings: tuple[int, ...], place: int) -> str:
    table = _slice(data, strings[4], strings[5])
    return table[place : table.index(b"\0", place)].decode()
