"""A byte-pair vocabulary of CLIP's form and size, made here, for pipelines without published files.

Ids are laid out as CLIP's: 256 bytes, the same 256 at the end of a word, the merges in order of rank, then
the two special tokens. The merges spell whole words: first those below, so that common prompts take one token
a word, then syllables put together at random.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
_WORDS = """
a the of and in on with at by an photo picture painting drawing portrait photograph render sketch art
style red green blue yellow orange purple white black pink brown grey golden small large tiny huge old
young circle square triangle star ring cross shape cat dog horse bird fish lion bear fox rabbit
astronaut robot castle house city street forest mountain river lake sea beach sky sunset sunrise night
day moon stars snow rain clouds tree flower garden field road bridge boat ship car train plane riding
standing sitting running flying holding wearing looking under over behind above below between next left
right background foreground detailed highly realistic digital oil watercolor pencil ink cinematic
lighting soft light dark bright colors high quality resolution sharp focus blurry low bad worst ugly man
woman girl boy child people person face eyes hair hat dress armor sword dragon knight wizard king queen
spaceship planet space galaxy futuristic ancient medieval modern abstract surreal fantasy epic beautiful
"""
_ONSETS = "b c d f g h k l m n p r s t v w br ch cl dr fl gr pl sh sl st th tr"
_VOWELS = "a e i o u ai ea ee io oo ou"
_CODAS = "n r s t l m d ck ng nd st rt"


def byte_symbols() -> list[str]:
    """Return the printable stand-in of each of the 256 bytes, in the order of CLIP's first ids.

    The mapping is GPT-2's (Radford et al., 2019): printable bytes stand for themselves, the others for the
    code points from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + rank) for rank in range(len(others))]


def make_vocabulary(size: int, seed: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Make a vocabulary of ``size`` tokens and the merges, best first, that reach all of them.

    Raises
    ------
    ValueError : ``size`` has no room for the bytes and the special tokens.
    """
    symbols = byte_symbols()
    tokens = symbols + [f"{symbol}</w>" for symbol in symbols]
    wanted = size - len(tokens) - 2
    if wanted < 0:
        raise ValueError(f"a vocabulary of {size} has no room for {len(tokens)} bytes and 2 special tokens")
    ranks: dict[tuple[str, str], int] = {}
    known = set(tokens)
    for word in _words(seed):
        # A new merge ranks last, so words spelled before keep their one token.
        pieces = _encode(word, ranks)
        while len(pieces) > 1 and len(ranks) < wanted and pieces[0] + pieces[1] not in known:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces[:2] = [pieces[0] + pieces[1]]
            known.add(pieces[0])
        if len(ranks) == wanted:
            break
    merges = list(ranks)
    ordered = [*tokens, *(first + second for first, second in merges), BOS, EOS]
    return {token: identifier for identifier, token in enumerate(ordered)}, merges


def write_tokenizer_folder(folder: Path, size: int, seed: int, max_length: int, pad_token: str) -> None:
    """Write the four files of a published CLIP tokenizer into ``folder``, which has to exist."""
    vocabulary, merges = make_vocabulary(size, seed)
    special = {
        name: {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        for name, content in (("bos_token", BOS), ("eos_token", EOS), ("unk_token", EOS))
    }
    config = {
        "add_prefix_space": False,
        **{name: {"__type": "AddedToken", **token} for name, token in special.items()},
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": max_length,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
    }
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    texts = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(lines) + "\n",
        "special_tokens_map.json": json.dumps({**special, "pad_token": pad_token}, indent=2),
        "tokenizer_config.json": json.dumps(config, indent=2),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _encode(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Split a word as byte-pair encoding does: merge the pair of the lowest rank until no pair has one."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while len(pieces) > 1:
        rank, place = min(
            (ranks.get((pieces[place], pieces[place + 1]), len(ranks)), place)
            for place in range(len(pieces) - 1)
        )
        if rank == len(ranks):
            break
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def _words(seed: int) -> Iterator[str]:
    """Yield the words above, then made-up ones of one or two syllables without end."""
    yield from _WORDS.split()
    generator = np.random.default_rng(seed)
    onsets, vowels, codas = _ONSETS.split(), _VOWELS.split(), ["", *_CODAS.split()]
    while True:
        for count, *parts in generator.integers(0, 1 << 30, size=(4096, 7)).tolist():
            syllables = (parts[:3], parts[3:])[: 1 + count % 2]
            yield "".join(
                onsets[onset % len(onsets)] + vowels[vowel % len(vowels)] + codas[coda % len(codas)]
                for onset, vowel, coda in syllables
            )
