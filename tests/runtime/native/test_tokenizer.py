"""The tokenizer in C++ gives the ids of the library ``tokenizers``, and refuses what it cannot follow."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddimcache.compiler.frontend.tokenizer import load_tokenizer, write_tokenizer
from ddimcache.models.shapes.tokenizer import write_tokenizer as write_shapes_tokenizer
from ddimcache.models.stand_in_tokenizer import write_tokenizer_folder
from ddimcache.runtime.tokenizer import CONSTANTS_FILE, TOKENIZER_FILE, Tokenizer


@pytest.fixture(scope="session")
def program(build_program) -> Path:
    return build_program(
        "tokenize", ["tokenizer.cc", "unicode.cc", "unicode_tables.cc", "json_reader.cc", "failure.cc"]
    )


class Both:
    """A folder's tokenizer in C++, in a process of its own, and in Python."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.python = Tokenizer(folder)
        self.process = subprocess.Popen([program, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert int(self._line()) == self.python.max_length

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def native(self, text: bytes) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(b"%d " % len(text) + text)
        self.process.stdin.flush()
        return self._line()

    def check(self, text: str) -> None:
        found = [int(number) for number in self.native(text.encode()).split()]
        assert found == self.python.encode(text), ascii(text)


def write_shapes(folder: Path) -> None:
    write_shapes_tokenizer(folder)


def write_stand_in(folder: Path) -> None:
    folder.mkdir()
    write_tokenizer_folder(folder, size=2000, seed=0, max_length=77, pad_token="!")


# The one has letters of its vocabulary only and special tokens as they are written, the other every byte.
@pytest.fixture(scope="module", params=[write_shapes, write_stand_in])
def both(
    request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    write: Callable[[Path], None] = request.param
    scratch = tmp_path_factory.mktemp("tokenizer")
    write(scratch / "model")
    size = 2000 if write is write_stand_in else 173
    tokenizer, constants = load_tokenizer(scratch / "model", size, 77)
    (scratch / "bundle").mkdir()
    write_tokenizer(tokenizer, constants, scratch / "bundle")
    both = Both(program, scratch / "bundle")
    yield both
    assert both.process.stdin is not None
    both.process.stdin.close()
    assert both.process.wait(10) == 0


MARKERS = ["<|startoftext|>", "<|endoftext|>", "<|STARTOFTEXT|>", "<|endoftext", "|>", "<", "<|"]
PIECES = [
    *MARKERS,
    "'s",
    "'LL",
    "'",
    "a",
    "The",
    "red",
    "42",
    "!",
    "  ",
    "\n",
    "é",
    "e\u0301",
    "İ",
    "Σ",
    "가",
    "½",
]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=120))
def test_any_text(both: Both, text: str) -> None:
    both.check(text)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(max_codepoint=127), max_size=120))
def test_any_ascii(both: Both, text: str) -> None:
    both.check(text)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=40))
def test_words_markers_and_spaces_side_by_side(both: Both, pieces: list[str]) -> None:
    both.check("".join(pieces))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(
        st.one_of(
            st.characters(categories=["Mn", "Mc"]),
            st.characters(min_codepoint=0xC0, max_codepoint=0x24F),
            st.characters(min_codepoint=0x1100, max_codepoint=0x11FF),
            st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),
        ),
        max_size=12,
    )
)
def test_marks_and_letters_that_compose(both: Both, text: str) -> None:
    both.check(text)


def test_every_code_point(both: Both) -> None:
    """Fifteen at a time, each behind a letter that it may join: 75 tokens at most, so that none is cut."""
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    # what is written today; beyond it only samples
    chosen = [code for code in codes if code < 0x3400 or 0x9F00 < code < 0xAC80 or code % 53 == 0]
    chosen += [code for code in codes if 0xD700 <= code < 0x12000 or 0x1D000 <= code < 0x1FB00]
    for begin in range(0, len(chosen), 15):
        both.check(" ".join(f"a{chr(code)}" for code in chosen[begin : begin + 15]))


def test_a_long_word_and_a_long_text(both: Both) -> None:
    both.check("a" * 20000)
    both.check("the red star " * 2000)


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"red \xe2\x82"]
)
def test_text_that_is_not_utf8_is_refused(both: Both, text: bytes) -> None:
    assert both.native(text) == "UsageError: prompt: is not UTF-8"


def folder_with(both: Both, folder: Path, change: Callable[[dict], None], name: str = TOKENIZER_FILE) -> Path:
    folder.mkdir(exist_ok=True)
    source = Path(both.process.args[1])
    for file in (TOKENIZER_FILE, CONSTANTS_FILE):
        content = json.loads((source / file).read_text())
        if file == name:
            change(content)
        (folder / file).write_text(json.dumps(content))
    return folder


def refusal(program: Path, folder: Path) -> str:
    return subprocess.run([program, folder], capture_output=True, text=True).stdout.strip()


CHANGES: list[tuple[str, Callable[[dict], object]]] = [
    ("normalizer: this is not CLIP's", lambda file: file["normalizer"]["normalizers"].pop()),
    ("pre_tokenizer.pretokenizers: this is not", lambda file: file["pre_tokenizer"]["pretokenizers"].pop()),
    ("model.type: this is not CLIP's", lambda file: file["model"].update(type="WordPiece")),
    ("model.dropout: this is not CLIP's", lambda file: file["model"].update(dropout=0.5)),
    ("model.byte_fallback: this is", lambda file: file["model"].update(byte_fallback=True)),
    ("post_processor.type: this is", lambda file: file["post_processor"].update(type="ByteLevel")),
    ("post_processor: its ids are not", lambda file: file["post_processor"].update(cls=["x", 5])),
    ("added_tokens[0].lstrip: true is not", lambda file: file["added_tokens"][0].update(lstrip=True)),
    ("model.merges[0]: the token 'aq' is not in", lambda file: file["model"]["merges"].insert(0, ["a", "q"])),
    ("model.merges[0]: expected 2 items", lambda file: file["model"]["merges"].insert(0, ["a"])),
    ("model.vocab.a: ", lambda file: file["model"]["vocab"].update(a=-1)),
    ("model.vocab: expected an object", lambda file: file["model"].update(vocab=[])),
    ("key 'model' is missing", lambda file: file.pop("model")),
]


@pytest.mark.parametrize(("message", "change"), CHANGES, ids=[message for message, _ in CHANGES])
def test_another_tokenizer_is_refused_by_name(
    both: Both, program: Path, tmp_path: Path, message: str, change: Callable[[dict], object]
) -> None:
    folder = folder_with(both, tmp_path / "changed", change)
    said = refusal(program, folder)
    assert said.startswith(f"BundleError: {folder / TOKENIZER_FILE}: ")
    assert message in said
    assert said.endswith("; compile the bundle again")


@pytest.mark.parametrize("name", [TOKENIZER_FILE, CONSTANTS_FILE])
@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"max_length": 77}', "\xff", "[" * 100])
def test_a_damaged_file_is_refused(
    both: Both, program: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    folder = folder_with(both, tmp_path / "damaged", lambda file: None)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode("latin-1"))
    assert refusal(program, folder).startswith(f"BundleError: {folder / name}: ")


@pytest.mark.parametrize(("key", "value"), [("max_length", 2), ("max_length", 1 << 21), ("bos_id", -1)])
def test_constants_out_of_range_are_refused(
    both: Both, program: Path, tmp_path: Path, key: str, value: int
) -> None:
    folder = folder_with(both, tmp_path / "range", lambda file: file.update({key: value}), CONSTANTS_FILE)
    assert refusal(program, folder).startswith(f"BundleError: {folder / CONSTANTS_FILE}: {key}: ")
