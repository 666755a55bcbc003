"""Of what is not whole nothing is left, whoever is killed, and a bundle's name is never missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddimcache.compiler import bundle
from ddimcache.compiler.bundle import put_in_place
from ddimcache.compiler.scratch import OLD, exchange, folder_beside

pytestmark = pytest.mark.host
USER = (
    "import sys, time; from pathlib import Path; from ddimcache.compiler.scratch import folder_beside\n"
    "with folder_beside(Path(sys.argv[1])) as folder:\n"
    "    (folder / 'half').touch(); print(folder, flush=True); time.sleep(600)\n"
)


def begin(path: Path) -> tuple[subprocess.Popen, Path]:
    """Start a process that has such a folder; returns that too."""
    process = subprocess.Popen([sys.executable, "-c", USER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("name", ["bundle", "[b]*ndle ?"])
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_kept(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    killed, left = begin(path)
    working, used = begin(path)
    other, others = begin(path.with_name(f"{name}.b"))
    end(killed)
    end(other)
    assert left.is_dir()
    with folder_beside(path) as folder:
        assert set(tmp_path.iterdir()) == {folder, used, others}
        assert (used / "half").exists()
    end(working)
    with folder_beside(path):
        pass
    assert set(tmp_path.iterdir()) == {others}


def test_a_folder_that_was_moved_away_stays(tmp_path: Path) -> None:
    with folder_beside(tmp_path / "bundle") as folder:
        folder.rename(tmp_path / "bundle")
        with folder_beside(tmp_path / "bundle"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def new_and_old(folder: Path) -> tuple[Path, Path]:
    for name in ("new", "bundle"):
        (folder / name).mkdir()
        (folder / name / "content").write_text(name)
    return folder / "new", folder / "bundle"


def test_names_change_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = new_and_old(tmp_path)
    if not exchange(new, old):
        pytest.skip("this file system cannot")
    assert exchange(new, old)
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("a name was missing"))
    put_in_place(new, old)
    assert (old / "content").read_text() == "new"


def test_where_they_cannot_the_old_one_steps_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = new_and_old(tmp_path)
    monkeypatch.setattr(bundle, "exchange", lambda *_: False)
    put_in_place(new, old)
    assert (old / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_only_copy_of_a_bundle_is_never_removed(tmp_path: Path) -> None:
    """Somebody was killed between the two renames of the case above."""
    aside = tmp_path / ".bundle.abcdefgh.part"
    (aside / OLD).mkdir(parents=True)
    with folder_beside(tmp_path / "bundle"):
        assert (aside / OLD).is_dir()
    (tmp_path / "bundle").mkdir()
    with folder_beside(tmp_path / "bundle"):
        assert not aside.exists()


def test_an_exchange_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")
