"""Reads a pipeline's CLIP tokenizer and writes it in the form that the runtime reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from ddimcache.compiler.frontend.weights import read_json_object
from ddimcache.errors import FrontendError
from ddimcache.runtime.tokenizer import CONSTANTS_FILE, TOKENIZER_FILE

_REMEDY = "copy the folder `tokenizer` of the published pipeline again"


@dataclass(frozen=True)
class TokenizerConstants:
    """What is needed beside the vocabulary: lengths in tokens, ids as the text encoder reads them."""

    max_length: int
    bos_id: int
    eos_id: int
    pad_id: int
    pad_token: str


def load_tokenizer(
    folder: Path, vocab_size: int, max_positions: int
) -> tuple[CLIPTokenizer, TokenizerConstants]:
    """Load the tokenizer and check that it fits its text encoder.

    Parameters
    ----------
    folder : the pipeline's folder ``tokenizer``, with ``vocab.json`` and ``merges.txt`` (as published), or
        with ``tokenizer.json`` (as transformers 5 saves it), which is preferred as transformers prefers it.
    vocab_size, max_positions : of the text encoder.

    Raises
    ------
    FrontendError : a file is missing or corrupt, or the vocabulary has another size than the text encoder's.
    """
    vocabulary_file = _check_files(folder)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    # The library raises whatever the corrupt part led to: its parsers are native and have no common error.
    except Exception as error:
        raise FrontendError(f"cannot be read: {error}", where=vocabulary_file, remedy=_REMEDY) from error
    if len(tokenizer) != vocab_size:
        raise FrontendError(
            f"holds {len(tokenizer)} tokens, but the text encoder's `vocab_size` is {vocab_size}",
            where=vocabulary_file,
            remedy=_REMEDY,
        )
    ids = {}
    for name in ("bos", "eos", "pad", "unk"):
        identifier = getattr(tokenizer, f"{name}_token_id")
        if type(identifier) is not int or not 0 <= identifier < vocab_size:
            raise FrontendError(
                f"the {name} token {getattr(tokenizer, f'{name}_token')!r} is not in the vocabulary",
                where=vocabulary_file,
                remedy=_REMEDY,
            )
        ids[name] = identifier
    # transformers' stand-in for "no limit" is 1e30.
    max_length = tokenizer.model_max_length
    if max_length > 1 << 20:
        max_length = max_positions
    if type(max_length) is not int or not 3 <= max_length <= max_positions:
        raise FrontendError(
            f"`model_max_length` is {max_length!r}, but the text encoder has {max_positions} positions",
            where=folder / "tokenizer_config.json",
        )
    constants = TokenizerConstants(max_length, ids["bos"], ids["eos"], ids["pad"], str(tokenizer.pad_token))
    return tokenizer, constants


def write_tokenizer(tokenizer: CLIPTokenizer, constants: TokenizerConstants, out: Path) -> tuple[Path, Path]:
    """Write ``tokenizer.json`` and the constants into the folder ``out``, which has to exist.

    Returns
    -------
    The two files. ``ddimcache.runtime.tokenizer.Tokenizer(out)`` reads them.
    """
    backend = tokenizer.backend_tokenizer
    # How long to cut and pad is the runtime's to set: the backend remembers its last call.
    backend.no_padding()
    backend.no_truncation()
    tokenizer_file, constants_file = out / TOKENIZER_FILE, out / CONSTANTS_FILE
    tokenizer_file.write_text(backend.to_str(), encoding="utf-8")
    constants_file.write_text(json.dumps(asdict(constants), indent=2) + "\n", encoding="utf-8")
    return tokenizer_file, constants_file


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """List the files in ``folder`` that decide what the tokenizer does."""
    names = (
        "vocab.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    )
    return tuple(folder / name for name in names if (folder / name).is_file())


def _check_files(folder: Path) -> Path:
    """Check what the library would pass over in silence; return the file that holds the vocabulary."""
    for optional in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / optional).is_file():
            read_json_object(folder / optional)
    whole = folder / "tokenizer.json"
    if whole.is_file():
        model: Any = read_json_object(whole).get("model")
        if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
            raise FrontendError("holds no BPE model, which CLIP's tokenizer is", where=whole, remedy=_REMEDY)
        _check_vocabulary(whole, model.get("vocab"))
        return whole
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    _check_vocabulary(vocabulary, read_json_object(vocabulary))
    try:
        lines = merges.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise FrontendError("file is missing", where=merges, remedy=_REMEDY) from error
    except OSError as error:
        raise FrontendError(f"cannot be read: {error.strerror}", where=merges) from error
    except UnicodeDecodeError as error:
        raise FrontendError(f"is not UTF-8 text ({error})", where=merges, remedy=_REMEDY) from error
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#version") and len(line.split()) != 2:
            raise FrontendError(
                f"line {number} is not a pair of tokens: {line[:60]!r}", where=merges, remedy=_REMEDY
            )
    return vocabulary


def _check_vocabulary(file: Path, vocabulary: Any) -> None:
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise FrontendError("holds no vocabulary", where=file, remedy=_REMEDY)
    identifiers = list(vocabulary.values())
    if any(type(identifier) is not int or identifier < 0 for identifier in identifiers):
        raise FrontendError("maps a token to something that is not an id", where=file, remedy=_REMEDY)
    if len(set(identifiers)) != len(identifiers):
        raise FrontendError("maps two tokens to one id", where=file, remedy=_REMEDY)
