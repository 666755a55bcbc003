"""Turns a prompt into the token ids that the text encoder reads, as ``StableDiffusionPipeline`` does.

Needs only the ``tokenizers`` library: the compiler writes the two files that are read here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tokenizers

from ddimcache.errors import BundleError
from ddimcache.records import Limits, RecordProblem, from_json, loads

TOKENIZER_FILE = "tokenizer.json"
CONSTANTS_FILE = "tokenizer_constants.json"
_REMEDY = "compile the bundle again"

_TokenId = Annotated[int, Limits(minimum=0, maximum=2**31 - 1)]


@dataclass(frozen=True)
class _Constants:
    max_length: Annotated[int, Limits(minimum=3, maximum=2**20)]
    bos_id: _TokenId
    eos_id: _TokenId
    pad_id: _TokenId
    pad_token: str


class Tokenizer:
    """CLIP's byte-pair encoding, cut and padded to the text encoder's length.

    Parameters
    ----------
    folder : holds ``tokenizer.json`` and ``tokenizer_constants.json``.

    Raises
    ------
    BundleError : a file is missing or cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        constants_file, tokenizer_file = Path(folder) / CONSTANTS_FILE, Path(folder) / TOKENIZER_FILE
        try:
            constants = from_json(_Constants, loads(constants_file.read_bytes()))
        except (OSError, RecordProblem) as error:
            raise BundleError(
                f"tokenizer constants cannot be read ({error})", where=constants_file, remedy=_REMEDY
            ) from error
        self._file = tokenizer_file
        self.max_length = constants.max_length
        self.bos_id, self.eos_id, self.pad_id = constants.bos_id, constants.eos_id, constants.pad_id
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        # The native library raises plain Exception for a missing or torn file.
        except Exception as error:
            raise BundleError(
                f"tokenizer cannot be read ({error})", where=tokenizer_file, remedy=_REMEDY
            ) from error
        self._tokenizer.enable_truncation(self.max_length)
        self._tokenizer.enable_padding(
            length=self.max_length, pad_id=self.pad_id, pad_token=constants.pad_token
        )

    def encode(self, prompt: str) -> list[int]:
        """Return ``max_length`` token ids: begin, the prompt's tokens as far as they fit, end, padding.

        Raises :class:`BundleError` when the tokenizer's file makes something else of it.
        """
        ids: list[int] = self._encoding(prompt).ids
        if len(ids) != self.max_length or ids[0] != self.bos_id or self.eos_id not in ids:
            raise BundleError(
                f"tokenizer gives {len(ids)} ids from {ids[:1]}, not {self.max_length} from {self.bos_id}",
                where=self._file,
                remedy=_REMEDY,
            )
        return ids

    def left_out(self, prompt: str) -> str:
        """Return the end of ``prompt`` that :meth:`encode` has no room for, mostly nothing; raises as it."""
        for part in self._encoding(prompt).overflowing:
            for is_special, (begin, _) in zip(part.special_tokens_mask, part.offsets, strict=True):
                if not is_special:
                    return prompt[begin:].strip()
        return ""

    def _encoding(self, prompt: str) -> tokenizers.Encoding:
        try:
            return self._tokenizer.encode(prompt)
        # As above, for a file that was read but contradicts itself.
        except Exception as error:
            raise BundleError(f"tokenizer fails ({error})", where=self._file, remedy=_REMEDY) from error
