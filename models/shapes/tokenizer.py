"""A CLIP tokenizer whose vocabulary is the grammar's words, and letters for all other words."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from ddimcache.models.shapes.grammar import WORDS

MAXIMUM_TOKENS = 77
_END = "</w>"
_START_TOKEN, _END_TOKEN = "<|startoftext|>", "<|endoftext|>"
_CHARACTERS = string.ascii_lowercase + string.digits + ",.-'!?:;()"


def _apply(pieces: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Merge a word's pieces in the order of the merges' ranks, as byte-pair encoding does."""
    for left, right in merges:
        index = 0
        while index < len(pieces) - 1:
            if (pieces[index], pieces[index + 1]) == (left, right):
                pieces[index : index + 2] = [left + right]
            else:
                index += 1
    return pieces


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return token ids by token, and merges in rank order that make each grammar word one token.

    Each word's merges come after those of the words before it and start from what these leave of it, so
    no later merge can split an earlier word.  Words outside the grammar stay letters or small pieces.
    """
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = _apply([*word[:-1], word[-1] + _END], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    tokens = [*_CHARACTERS, *(character + _END for character in _CHARACTERS)]
    tokens += [left + right for left, right in merges if left + right not in tokens]
    tokens = list(dict.fromkeys([*tokens, _START_TOKEN, _END_TOKEN]))
    return {token: index for index, token in enumerate(tokens)}, merges


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json, merges.txt, tokenizer.json and their configuration; return the loaded tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer_type: Any = CLIPTokenizer  # its annotation of the merges is not what it takes
    tokenizer = tokenizer_type(vocab=ids, merges=merges, model_max_length=MAXIMUM_TOKENS)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
