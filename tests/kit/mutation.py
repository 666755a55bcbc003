"""Damage at random: to bytes, and to values of JSON."""

from __future__ import annotations

import copy
import random
from typing import Any

NASTY: list[Any] = [
    None, True, -1, 0, 1, 1.5, 2**31, 2**63, 2**64, -(2**63), 10**40, 1e308, 5e-324, "", "x", "../../escape",
    "/etc/passwd", "\0", "\ud800", "a" * 5000, [], [[]], {}, {"x": 1}, [0] * 77, [2**40] * 77, "0" * 64,
]  # fmt: skip


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flip, cut, repeat or overwrite a few bytes."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                changed[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
            case 3:
                del changed[at : at + rng.choice([1, 4, 100])]
            case _:
                changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80"])
    return bytes(changed)


def mutated_value(rng: random.Random, value: Any) -> Any:
    """Replace one value anywhere in a JSON value, take a key away, or add one."""
    value = copy.deepcopy(value)
    node = value
    # Downwards at random, so that a long list does not draw nearly every change to itself.
    while inner := [key for key in keys_of(node) if keys_of(node[key])]:
        if rng.random() < 0.3:
            break
        node = node[rng.choice(inner)]
    if isinstance(node, dict) and (not node or rng.random() < 0.1):
        node["surprise"] = rng.choice(NASTY)
    elif keys_of(node):
        key = rng.choice(keys_of(node))
        if rng.random() < 0.15:
            del node[key]
        else:
            node[key] = rng.choice(NASTY)
    return value


def keys_of(value: Any) -> list[Any]:
    """Keys of an object, positions of a list; none of any other value."""
    return (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
