"""The tokenizer of a bundle gives the ids that ``StableDiffusionPipeline`` gives to its text encoder."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler.frontend.pipeline_folder import PipelineFolder, load_pipeline_folder
from ddimcache.compiler.frontend.tokenizer import write_tokenizer
from ddimcache.errors import BundleError
from ddimcache.models.stand_in_tokenizer import write_tokenizer_folder
from ddimcache.runtime.tokenizer import CONSTANTS_FILE, TOKENIZER_FILE, Tokenizer
from tests.kit.family import TINY, stand_in
from tests.kit.reference import diffusers_pipeline

pytestmark = pytest.mark.host

PROMPTS = [
    "",
    " ",
    "\n\t  \r\n",
    "a photo of an astronaut riding a horse",
    "A PHOTO   of an\tAstronaut",
    "a photo, of; an (astronaut:1.3) [riding] {a} horse!!! ... -- __",
    "it's they're we've I'm he'll don't 'quoted' ''",
    "1234567890 3.14 1,000 ½ ²",
    "naïve café Ünïcödé ß ſ İstanbul",
    "e\u0301 is é in two code points; \u1e9b\u0323",
    "日本語の猫 和 한국어 العربية עברית हिन्दी ไทย",
    "🐱‍👤 👩‍👩‍👧‍👦 🏳️‍🌈 flags 🇦🇶",
    "\u200bzero\u200dwidth\ufeff \u00a0\u3000 spaces\u2028lines",
    "<|startoftext|> in <|endoftext|> between <|STARTOFTEXT|>",
    "! ! !!! a!b",
    "<b>html</b> &amp; C:\\path\\n",
    "\x00\x01\x7f control",
    "\ud7ff\ue000\U0010ffff",
    "a" * 1000,
    "word " * 500,
    "supercalifragilisticexpialidocious " * 20,
]


class Pair:
    """A folder's tokenizer as transformers loads it, and ours as the runtime loads it."""

    def __init__(self, folder: PipelineFolder, out: Path) -> None:
        out.mkdir()
        self.theirs = diffusers_pipeline(folder.path).tokenizer
        self.max_length = folder.text_length
        write_tokenizer(folder.tokenizer, folder.tokenizer_constants, out)
        self.ours = Tokenizer(out)

    def check(self, prompt: str) -> None:
        # As StableDiffusionPipeline.encode_prompt calls it.
        expected = self.theirs(
            prompt, padding="max_length", max_length=self.theirs.model_max_length, truncation=True
        ).input_ids
        found = self.ours.encode(prompt)
        assert found == expected
        assert len(found) == self.max_length


@pytest.fixture(scope="module", params=TINY)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = load_pipeline_folder(stand_in(request.param))
    return Pair(folder, tmp_path_factory.mktemp("tokenizer") / "tokenizer")


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_prompts_are_encoded_as_transformers_does(pair: Pair, prompt: str) -> None:
    pair.check(prompt)


@settings(deadline=None, max_examples=100)
@given(prompt=st.text(max_size=200))
def test_any_text_is_encoded_as_transformers_does(pair: Pair, prompt: str) -> None:
    pair.check(prompt)


@settings(deadline=None, max_examples=60)
@given(
    words=st.lists(st.sampled_from(["a", "Red", "cat", "!", ",", "'s", "42", "é", "<|endoftext|>"])),
    times=st.integers(1, 30),
)
def test_any_length_is_cut_and_padded_as_transformers_does(pair: Pair, words: list[str], times: int) -> None:
    pair.check(" ".join(words * times))


@settings(deadline=None, max_examples=60)
@given(
    words=st.lists(st.sampled_from(["a", "Red", "cat", "!", "", "'s", "42", "é", "<|endoftext|>", "🐱"])),
    times=st.integers(1, 40),
)
def test_what_is_left_out_is_what_changes_nothing(pair: Pair, words: list[str], times: int) -> None:
    prompt = " ".join(words * times)
    end = pair.ours.left_out(prompt)
    assert (end == "") == (len(pair.theirs(prompt).input_ids) <= pair.max_length)
    assert prompt.rstrip().endswith(end)
    begin = prompt.rstrip().removesuffix(end)
    # A word may be several tokens, of which only some find room.
    most = 4
    kept, whole = pair.ours.encode(begin), pair.ours.encode(prompt)
    assert kept[: pair.max_length - most] == whole[: pair.max_length - most]


def test_padding_is_the_models_own(pair: Pair) -> None:
    ids = pair.ours.encode("cat")
    assert ids[0] == pair.ours.bos_id
    assert ids[2] == pair.ours.eos_id
    assert set(ids[3:]) == {pair.ours.pad_id}
    assert pair.ours.pad_id == (0 if pair.theirs.pad_token == "!" else pair.ours.eos_id)


def test_a_vocabulary_of_full_size_spells_its_words_in_one_token(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    write_tokenizer_folder(tmp_path, size=49408, seed=0, max_length=77, pad_token="<|endoftext|>")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 49408
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49406, 49407)
    assert len(tokenizer("a photo of an astronaut riding a horse").input_ids) == 10
    assert tokenizer.convert_ids_to_tokens(0) == "!"


def test_a_tokenizer_saved_by_transformers_is_read(tmp_path: Path) -> None:
    diffusers_pipeline(stand_in("tiny-sd21")).save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved/tokenizer/tokenizer.json").is_file()
    pair = Pair(load_pipeline_folder(tmp_path / "saved"), tmp_path / "out")
    for prompt in PROMPTS:
        pair.check(prompt)


@pytest.mark.parametrize("name", [CONSTANTS_FILE, TOKENIZER_FILE])
@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"max_length": 77}'])
def test_a_damaged_bundle_is_refused(name: str, content: str | None, tmp_path: Path) -> None:
    folder = load_pipeline_folder(stand_in("tiny-bk"))
    write_tokenizer(folder.tokenizer, folder.tokenizer_constants, tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(BundleError) as caught:
        Tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path / name)
    assert "cannot be read" in str(caught.value)


def test_the_runtime_needs_only_the_tokenizers_library(tmp_path: Path) -> None:
    folder = load_pipeline_folder(stand_in("tiny-sd15"))
    write_tokenizer(folder.tokenizer, folder.tokenizer_constants, tmp_path)
    code = (
        "import sys; from ddimcache.runtime.tokenizer import Tokenizer; "
        "ids = Tokenizer(sys.argv[1]).encode('cat'); "
        "print(len(ids), 'transformers' in sys.modules, 'torch' in sys.modules)"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "77 False False\n"
