"""PoCL from PyPI is found where the system has no driver, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddimcache.runtime import icd


@pytest.fixture
def packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> icd.PackagedDriver:
    """A machine without a driver of its own, with the two packages."""
    driver = icd.PackagedDriver(tmp_path / "libpocl.so", tmp_path / "libOpenCL.so.1")
    monkeypatch.setattr(icd, "system_has_driver", lambda: False)
    monkeypatch.setattr(icd, "find_packaged_driver", lambda: driver)
    return driver


def test_driver_and_loader_are_chosen(packaged: icd.PackagedDriver, tmp_path: Path) -> None:
    folder = tmp_path / "icd"
    chosen = icd.choose_environment({}, icd_folder=folder)
    assert chosen == {
        "OCL_ICD_VENDORS": str(folder),
        "DDIMCACHE_OPENCL_LIBRARY": str(packaged.loader),
        "PYOPENCL_HOME": str(folder),
    }
    assert [path.name for path in folder.iterdir()] == ["pocl.icd"]
    assert (folder / "pocl.icd").read_text() == f"{packaged.driver}\n"


def test_an_old_file_is_replaced(packaged: icd.PackagedDriver, tmp_path: Path) -> None:
    folder = tmp_path / "icd"
    folder.mkdir()
    (folder / "pocl.icd").write_text("/somewhere/else.so\n")
    icd.choose_environment({}, icd_folder=folder)
    assert (folder / "pocl.icd").read_text() == f"{packaged.driver}\n"


@pytest.mark.usefixtures("packaged")
@pytest.mark.parametrize("name", ["DDIMCACHE_OPENCL_LIBRARY", "OCL_ICD_VENDORS"])
def test_a_choice_is_respected(name: str, tmp_path: Path) -> None:
    assert icd.choose_environment({name: "chosen"}, icd_folder=tmp_path / "icd") == {}
    assert not (tmp_path / "icd").exists()


def test_the_systems_driver_comes_first(
    packaged: icd.PackagedDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(icd, "system_has_driver", lambda: True)
    assert icd.choose_environment({}, icd_folder=tmp_path / "icd") == {}


def test_without_packages_nothing_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(icd, "system_has_driver", lambda: False)
    monkeypatch.setattr(icd, "find_packaged_driver", lambda: None)
    assert icd.choose_environment({}, icd_folder=tmp_path / "icd") == {}


def test_a_folder_without_drivers_is_no_driver(tmp_path: Path) -> None:
    assert not icd.system_has_driver(tmp_path)
    assert not icd.system_has_driver(tmp_path / "absent")


def test_a_package_that_is_not_installed_has_no_driver() -> None:
    assert icd._file_of("a-distribution-that-nobody-has", "lib") is None
    assert icd._file_of("apache-tvm-ffi", "libtvm_ffi.so") is not None
