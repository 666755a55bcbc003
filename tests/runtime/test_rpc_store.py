"""Uploads without a network: resumed, checked, bounded, and never outside the folder."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from ddimcache.compiler.bundle import write_bundle
from ddimcache.errors import BundleError, DeviceError, UsageError
from ddimcache.runtime import rpc_store
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.image import ImageRequest, MemoryChoice, run_image
from ddimcache.runtime.progress import SilentProgress
from ddimcache.runtime.rpc_session_calls import SessionCalls
from ddimcache.runtime.rpc_store import Store
from ddimcache.runtime.session import Session
from tests.fakes import fake_bundle as fake
from tests.fakes.direct_calls import direct_device
from tests.kit.full_disk import files_up_to, small_disk

LLVM = DeviceSpec("llvm")
REQUEST = ImageRequest([1] * fake.LENGTH, [2] * fake.LENGTH, 5, 10, 3, 7.5)


def latents_of(session):
    return run_image(session, REQUEST, SilentProgress()).drawn.latents.tobytes()


def local_latents(folder):
    return latents_of(Session(open_bundle(folder), LLVM))


@pytest.fixture
def calls(tmp_path):
    return SessionCalls(Store(tmp_path / "store"), LLVM)


@pytest.fixture
def device(calls):
    return direct_device(calls)


@pytest.mark.parametrize(("asked", "allowed"), [(None, 10), (10**12, 10), (10, 10**12)])
def test_the_smaller_budget_holds(fake_bundle, tmp_path, asked, allowed):
    device = direct_device(SessionCalls(Store(tmp_path / "store"), LLVM, memory_budget=allowed))
    with pytest.raises(UsageError, match="--memory-budget: 10 bytes are not enough"):
        device.open(open_bundle(fake_bundle), SilentProgress(), MemoryChoice("auto", asked))


def test_a_budget_with_room(fake_bundle, tmp_path):
    device = direct_device(SessionCalls(Store(tmp_path / "store"), LLVM, memory_budget=10**9))
    assert latents_of(device.open(open_bundle(fake_bundle), SilentProgress())) == local_latents(fake_bundle)


@pytest.fixture
def announced(device, fake_bundle):
    """A file that the server was told of: its entry and its content."""
    device.call("missing", {}, (fake_bundle / "manifest.json").read_bytes())
    bundle = open_bundle(fake_bundle)
    return bundle.manifest.files["unet.so"], bundle.path("unet.so").read_bytes()


def variant(folder, bundle_folder, number, padding=0):
    """Another bundle with the same libraries, and a file of ``padding`` bytes of its own."""
    bundle = open_bundle(bundle_folder)
    files = {name: bundle.path(name) for name in bundle.manifest.files}
    files["tokenizer/padding.bin"] = bytes([number]) * padding
    write_bundle(folder, replace(bundle.manifest, model=f"fake {number}"), files)
    return open_bundle(folder)


def kept_bundles(store):
    return {path.name for path in (store / "bundles").iterdir()}


def test_upload_goes_on_where_it_stopped(device, fake_bundle, tmp_path, announced):
    entry, content = announced
    device.call("write", {"sha256": entry.sha256, "offset": 0}, content[: entry.bytes // 2])
    missing, _ = device.call("missing", {}, (fake_bundle / "manifest.json").read_bytes())
    assert dict(map(tuple, missing))["unet.so"] == entry.bytes // 2
    session = device.open(open_bundle(fake_bundle), SilentProgress())
    assert latents_of(session) == local_latents(fake_bundle)
    assert list((tmp_path / "store" / "partial").iterdir()) == []


def test_a_transfer_that_broke_off_with_wrong_bytes_is_sent_again(device, fake_bundle, announced):
    entry, _ = announced
    device.call("write", {"sha256": entry.sha256, "offset": 0}, bytes(entry.bytes // 2))
    session = device.open(open_bundle(fake_bundle), SilentProgress())
    assert latents_of(session) == local_latents(fake_bundle)


def test_altered_upload_is_refused_and_forgotten(device, tmp_path, announced):
    entry, content = announced
    device.call("write", {"sha256": entry.sha256, "offset": 0}, content[:-1] + b"?")
    with pytest.raises(BundleError, match="arrived altered; send it again"):
        device.call("finish", {"sha256": entry.sha256})
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["../../escape", "/etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "/x"])
def test_nothing_is_written_outside(device, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match="is not a sha256 in lower-case hexadecimal"):
        device.call("write", {"sha256": name, "offset": 0}, b"x")
    with pytest.raises(BundleError, match="is not a sha256 in lower-case hexadecimal"):
        device.call("finish", {"sha256": name})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_was_not_announced_is_refused(device, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    digest = hashlib.sha256(b"x").hexdigest()
    for method, arguments in (("write", {"offset": 0}), ("finish", {})):
        with pytest.raises(BundleError, match="is not in the bundle that was announced"):
            device.call(method, {"sha256": digest, **arguments}, b"x")
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_manifest_is_refused_before_anything_is_kept(device, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for method in ("missing", "open"):
        with pytest.raises(BundleError, match=r"manifest.json"):
            device.call(method, {}, b'{"format_version": 1, "files": {"../x": 1}}')
    assert sorted(tmp_path.rglob("*")) == before


def test_hole_and_what_is_too_long_are_refused(device, announced):
    entry, content = announced
    with pytest.raises(BundleError, match="a piece for byte 10 came where 0 are here"):
        device.call("write", {"sha256": entry.sha256, "offset": 10}, b"x")
    with pytest.raises(BundleError, match=rf"reaches to byte {entry.bytes + 1}, the file has {entry.bytes}"):
        device.call("write", {"sha256": entry.sha256, "offset": 0}, content + b"x")
    with pytest.raises(Exception, match="offset: is -1, below the least allowed"):
        device.call("write", {"sha256": entry.sha256, "offset": -1}, b"x")


def test_file_that_rots_in_the_store_is_sent_again(device, fake_bundle, tmp_path):
    bundle = open_bundle(fake_bundle)
    device.open(bundle, SilentProgress())
    kept = tmp_path / "store" / "files" / bundle.manifest.files["unet.so"].sha256
    content = bytearray(kept.read_bytes())
    content[0] ^= 1
    kept.write_bytes(content)
    with pytest.raises(BundleError, match=r"unet.so: its sha256 is not the manifest's"):
        device.open(bundle, SilentProgress())
    assert latents_of(device.open(bundle, SilentProgress())) == local_latents(fake_bundle)


def test_defect_is_told_and_logged(device, calls, caplog):
    calls._methods["peak_bytes"] = (calls._methods["peak_bytes"][0], lambda *_: 1 // 0)
    with pytest.raises(Exception, match="server's peak_bytes: failed inside: ZeroDivisionError"):
        device.call("peak_bytes", {})
    assert "Traceback" in caplog.text


class TestBounds:
    """How large the store becomes."""

    @pytest.fixture
    def bundles(self, tmp_path, fake_bundle):
        return [variant(tmp_path / f"bundle{number}", fake_bundle, number, 200_000) for number in range(4)]

    def size(self, bundle):
        return sum(entry.bytes for entry in bundle.manifest.files.values())

    def test_least_recently_used_goes_first(self, bundles, tmp_path, fake_bundle):
        # room for three: what they share is there once
        limit = self.size(bundles[0]) + 2 * 200_000 + 100_000
        store = Store(tmp_path / "store", limit)
        device = direct_device(SessionCalls(store, LLVM))
        for number in (0, 1, 2, 0):
            device.open(bundles[number], SilentProgress()).close()
            time.sleep(0.02)
        device.open(bundles[3], SilentProgress())
        assert kept_bundles(tmp_path / "store") == {bundles[number].identity for number in (0, 2, 3)}
        assert store.used_bytes() <= limit
        assert latents_of(device.open(bundles[1], SilentProgress())) == local_latents(fake_bundle)
        assert store.used_bytes() <= limit

    def test_the_bundle_in_use_stays(self, bundles, tmp_path, fake_bundle):
        limit = self.size(bundles[0]) + 200_000 // 2
        device = direct_device(SessionCalls(Store(tmp_path / "store", limit), LLVM))
        session = device.open(bundles[0], SilentProgress())
        with pytest.raises(DeviceError, match="bytes are needed"):
            device.call("missing", {}, (bundles[1].folder / "manifest.json").read_bytes())
        assert latents_of(session) == local_latents(fake_bundle)
        # the next client has nothing open
        device = direct_device(SessionCalls(Store(tmp_path / "store", limit), LLVM))
        assert latents_of(device.open(bundles[1], SilentProgress())) == local_latents(fake_bundle)
        assert kept_bundles(tmp_path / "store") == {bundles[1].identity}

    def test_a_bundle_that_is_larger_than_the_store(self, bundles, tmp_path):
        device = direct_device(SessionCalls(Store(tmp_path / "store", 100_000), LLVM))
        with pytest.raises(DeviceError, match=r"the store takes 100000; start .* larger --store-bytes"):
            device.open(bundles[0], SilentProgress())

    def test_broken_off_transfers_go_too(self, bundles, tmp_path):
        folder = tmp_path / "store"
        device = direct_device(SessionCalls(Store(folder), LLVM))
        device.call("missing", {}, (bundles[0].folder / "manifest.json").read_bytes())
        entry = bundles[0].manifest.files["tokenizer/padding.bin"]
        device.call("write", {"sha256": entry.sha256, "offset": 0}, bytes(150_000))
        device = direct_device(SessionCalls(Store(folder, self.size(bundles[1]) + 100_000), LLVM))
        device.open(bundles[1], SilentProgress())
        assert list((folder / "partial").iterdir()) == []

    def test_without_hard_links_copies_are_counted(self, bundles, tmp_path, fake_bundle, monkeypatch):
        def refuse(*_):
            raise PermissionError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
        limit = 2 * self.size(bundles[0]) + 500_000
        store = Store(tmp_path / "store", limit)
        device = direct_device(SessionCalls(store, LLVM))
        for bundle in bundles[:2]:
            session = device.open(bundle, SilentProgress())
            assert latents_of(session) == local_latents(fake_bundle)
            assert store.used_bytes() <= limit
            session.close()
        with pytest.raises(DeviceError, match="the store takes"):
            direct_device(SessionCalls(Store(tmp_path / "store", self.size(bundles[2])), LLVM)).open(
                bundles[2], SilentProgress()
            )


class TestFullDisk:
    """A disk without room: an error in words, and the next run goes on."""

    def test_told_before_anything_is_sent(self, device, fake_bundle, monkeypatch):
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(DeviceError, match="bytes are needed and 0 are free; make room on its disk"):
            device.open(open_bundle(fake_bundle), SilentProgress())

    def test_a_file_as_large_as_the_system_lets_it_be(self, device, fake_bundle, tmp_path):
        with files_up_to(6000), pytest.raises(DeviceError, match=r"cannot be written: File too large; make"):
            device.open(open_bundle(fake_bundle), SilentProgress())
        for path in (tmp_path / "store" / "files").iterdir():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert latents_of(device.open(open_bundle(fake_bundle), SilentProgress())) == local_latents(
            fake_bundle
        )

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can make a small disk")
    def test_a_disk_that_fills_up(self, fake_bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(rpc_store, "_SPARE_BYTES", 0)
        small = tmp_path / "small"
        with small_disk(small, 1 << 20):
            device = direct_device(SessionCalls(Store(small / "store"), LLVM))
            bundle = open_bundle(fake_bundle)
            missing, _ = device.call("missing", {}, (fake_bundle / "manifest.json").read_bytes())
            free = shutil.disk_usage(small).free
            ballast = small / "ballast"
            ballast.write_bytes(bytes(free - 40_000))  # somebody else fills it meanwhile
            with pytest.raises(DeviceError, match=r"cannot be written: No space left on device; make room"):
                device._send(bundle, missing, SilentProgress())
            with pytest.raises(DeviceError, match="bytes are needed"):
                device.open(bundle, SilentProgress())
            for path in (small / "store" / "files").iterdir():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
            ballast.unlink()
            assert latents_of(device.open(bundle, SilentProgress())) == local_latents(fake_bundle)


def test_one_server_a_store(tmp_path):
    Store(tmp_path / "store").claim()
    with pytest.raises(UsageError, match=r"--store: .*store is in use by another server; name another"):
        Store(tmp_path / "store").claim()


def test_a_store_is_free_when_its_server_is_gone(tmp_path):
    folder = tmp_path / "store"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from ddimcache.runtime.rpc_store import Store\n"
        "store = Store(Path(sys.argv[1])); store.claim()\n"
        "(store.work_folder() / 'left').write_text('x')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, folder]).returncode == -9
    assert len(list((folder / "work").iterdir())) == 1
    Store(folder).claim()
    assert list((folder / "work").iterdir()) == []
