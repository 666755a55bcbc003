"""Turns a prompt into the token ids that the text encoder reads, as ``StableDiffusionPipeline`` does.

Needs only the ``tokenizers`` library: the compiler writes the two files that are read here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import tokenizers

from ddimcache.errors import BundleError

TOKENIZER_FILE = "tokenizer.json"
CONSTANTS_FILE = "tokenizer_constants.json"
_REMEDY = "compile the bundle again"


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
            constants = json.loads(constants_file.read_text(encoding="utf-8"))
            self.max_length: int = constants["max_length"]
            self.bos_id: int = constants["bos_id"]
            self.eos_id: int = constants["eos_id"]
            self.pad_id: int = constants["pad_id"]
            pad_token: str = constants["pad_token"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(
                f"tokenizer constants cannot be read ({error!r})", where=constants_file, remedy=_REMEDY
            ) from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
        # The native library raises plain Exception for a missing or torn file.
        except Exception as error:
            raise BundleError(
                f"tokenizer cannot be read ({error})", where=tokenizer_file, remedy=_REMEDY
            ) from error
        self._tokenizer.enable_truncation(self.max_length)
        self._tokenizer.enable_padding(length=self.max_length, pad_id=self.pad_id, pad_token=pad_token)

    def encode(self, prompt: str) -> list[int]:
        """Return ``max_length`` token ids: begin, the prompt's tokens as far as they fit, end, padding."""
        return self._tokenizer.encode(prompt).ids
