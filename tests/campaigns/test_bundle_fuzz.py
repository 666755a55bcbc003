"""Damaged bundles: both readers refuse the same in words, and what opens draws or says why not.

Libraries are native code, which nothing but their sums can vouch for; every other file is damaged also
with its sum made right again, as somebody would who means harm.
"""

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from ddimcache.compiler.frontend.tokenizer import load_tokenizer, write_tokenizer
from ddimcache.errors import BundleError, DdimcacheError
from ddimcache.manifest import file_entry
from ddimcache.models.shapes.tokenizer import write_tokenizer as write_model_tokenizer
from ddimcache.records import to_json
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.native import answer_of, native
from ddimcache.runtime.session import Session
from ddimcache.runtime.tokenizer import Tokenizer
from tests.fakes.drawings import draw
from tests.kit.mutation import mutated_bytes, mutated_value
from tests.runtime.test_bundle import NARROWER

MANIFEST = "manifest.json"
WORDS = "a red circle above a blue square, İ 12 <|endoftext|> on a white background"


class Damaged:
    """A copy of a bundle of which one file at a time is not what it was."""

    def __init__(self, good: Path, folder: Path, rng: random.Random) -> None:
        self.folder = Path(shutil.copytree(good, folder))
        self.rng = rng
        self._take_tokenizer_of_clip(folder.parent / "words")
        self.files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        self.manifest = json.loads(self.files[MANIFEST])

    def _take_tokenizer_of_clip(self, scratch: Path) -> None:
        # The one of the fake is none that C++ reads.
        write_model_tokenizer(scratch)
        write_tokenizer(*load_tokenizer(scratch, 173, 77), self.folder / "tokenizer")
        manifest = json.loads((self.folder / MANIFEST).read_text())
        for path in (self.folder / "tokenizer").iterdir():
            manifest["files"][f"tokenizer/{path.name}"] = to_json(file_entry(path))
        (self.folder / MANIFEST).write_text(json.dumps(manifest))

    def damage(self) -> tuple[str, bytes, bool]:
        """Damage a file; return its name, its bytes, and whether its sum was made right again."""
        name = MANIFEST if self.rng.random() < 0.5 else self.rng.choice(list(self.files))
        content = self.files[name]
        if name.endswith(".json") and self.rng.random() < 0.6:
            changed = json.dumps(mutated_value(self.rng, json.loads(content))).encode()
        else:
            changed = mutated_bytes(self.rng, content)
        self._write(name, changed)
        mended = name != MANIFEST and not name.endswith(".so") and self.rng.random() < 0.6
        if mended:
            entry = {"bytes": len(changed), "sha256": hashlib.sha256(changed).hexdigest()}
            files = {**self.manifest["files"], name: entry}
            self._write(MANIFEST, json.dumps({**self.manifest, "files": files}).encode())
        return name, changed, mended

    def mend(self, name: str) -> None:
        for damaged in {name, MANIFEST}:
            self._write(damaged, self.files[damaged])

    def _write(self, name: str, content: bytes) -> None:
        # Another file of the same name: an open session still has the one before mapped.
        (self.folder / name).unlink()
        (self.folder / name).write_bytes(content)


def both_open(folder: Path):
    """The bundle, or None where both readers refuse it."""
    bundle = in_python = in_cpp = None
    try:
        bundle = open_bundle(folder)
    except BundleError as error:
        in_python = error
    try:
        answer_of(native("check_bundle")(str(folder), True))
    except BundleError as error:
        in_cpp = error
    if in_cpp is None:
        assert in_python is None, f"C++ opens what Python refuses: {in_python}"
    elif in_python is None:
        assert any(words in str(in_cpp) for words in NARROWER), f"C++ alone refuses: {in_cpp}"
        return None
    return bundle


def read_weights(bundle, component: str) -> None:
    """Weights that are accepted are those that the library of the format reads."""
    entry = bundle.manifest.components[component]
    path = bundle.path(entry.weights_file)
    specs = json.dumps([to_json(weight) for weight in entry.weights]).encode()
    _, body = answer_of(native("read_weights")(str(path), specs))
    try:
        theirs = load_file(path)
    except SafetensorError as error:
        raise AssertionError(f"{path} is read though it is none: {error}") from error
    assert body == b"".join(np.ascontiguousarray(theirs[weight.name]).tobytes() for weight in entry.weights)


def read_everything(bundle) -> None:
    """Whatever is behind the sums; raises BundleError for what is wrong there."""
    for component in bundle.manifest.components:
        read_weights(bundle, component)
        bundle.launches(component)
        bundle.kernel_sources(component)
    encode(bundle.tokenizer)


def encode(folder: Path) -> None:
    """Both tokenizers give the same ids, or the stricter one in C++ refuses the file."""
    ids = Tokenizer(folder).encode(WORDS)
    _, body = answer_of(native("encode")(str(folder), WORDS))
    assert np.frombuffer(body, "int32").tolist() == ids


def draw_by(bundle) -> bytes:
    session = Session(bundle, DeviceSpec("llvm"))
    try:
        return draw(session, steps=2)
    finally:
        session.close()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [400, pytest.param(12_000, marks=pytest.mark.full)])
def test_damaged_bundles(fake_bundle, tmp_path, count):
    rng = random.Random(int(os.environ.get("DDIMCACHE_FUZZ_SEED", "5")))
    damaged = Damaged(fake_bundle, tmp_path / "bundle", rng)
    expected = draw_by(open_bundle(fake_bundle))
    outcomes: Counter[str] = Counter()
    for number in range(count):
        name, changed, mended = damaged.damage()
        bundle = both_open(damaged.folder)
        outcome = "refused at opening"
        if bundle is not None:
            # A sum is wrong unless nothing changed or somebody wrote another one.
            assert name == MANIFEST or mended or changed == damaged.files[name], (number, name)
            try:
                read_everything(bundle)
                picture = draw_by(bundle)
                outcome = "drew"
            except DdimcacheError:
                outcome = "refused when used"
            else:
                if changed == damaged.files[name]:
                    assert picture == expected, (number, name)
        outcomes[outcome] += 1
        damaged.mend(name)
    print(f"{count} damaged bundles: {dict(outcomes)}")
    assert len(outcomes) == 3, "one of the ways was never gone"
    assert draw_by(open_bundle(damaged.folder)) == expected
