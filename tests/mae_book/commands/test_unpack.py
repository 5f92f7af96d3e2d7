"""The book's archive: verified whole before anything is written, and nothing is replaced."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from mae_book.commands.unpack import unpack
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError

sys.path.insert(0, str(repository() / "book" / "_ext"))
from book_archive import pack


@pytest.fixture
def project(tmp_path):
    """A project of three files that the archive takes, and two that it does not."""
    for name in (
        "results/probe/a.json",
        "checkpoints/world/r75-0.json",
        "notebooks/05.ipynb",
        "notebooks/.hidden/05.ipynb",
        "mae_lib/a.py",
    ):
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return tmp_path / "project"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def test_what_was_packed_is_unpacked_where_the_library_looks_and_once(project, cache, tmp_path):
    archive = tmp_path / "mae-book.zip"
    digest = pack(project, archive)
    assert pack(project, archive) == digest, "the same files make the same archive"
    assert unpack(archive) == (3, 0)
    found = files(cache)
    assert found.pop("book/SHA256SUMS").count("\n") == 3
    assert found == {
        "book/results/probe/a.json": "results/probe/a.json",
        "book/notebooks/05.ipynb": "notebooks/05.ipynb",
        "checkpoints/r75-0.json": "checkpoints/world/r75-0.json",
    }
    (cache / "checkpoints" / "r75-0.json").write_text("of the user's own")
    assert unpack(archive) == (3, 1)
    assert files(cache)["checkpoints/r75-0.json"] == "of the user's own"
    (project / "results/probe/a.json").write_text("another")
    pack(project, archive)
    with pytest.raises(InputError, match="another edition"):
        unpack(archive)
    assert files(cache)["book/results/probe/a.json"] == "results/probe/a.json"


def replaced(archive: Path, name: str, contents: bytes | None) -> None:
    """The archive with one member changed, added or (None) left out."""
    with zipfile.ZipFile(archive) as opened:
        members = {member: opened.read(member) for member in opened.namelist()}
    members[name] = contents
    with zipfile.ZipFile(archive, "w") as written:
        for member, held in members.items():
            if held is not None:
                written.writestr(member, held)


@pytest.mark.parametrize(
    ("name", "contents", "says"),
    [
        ("results/probe/a.json", b"0.7", "results/probe/a.json is not what its list says"),
        ("results/probe/a.json", None, "differ in results/probe/a.json"),
        ("results/b.json", b"{}", "differ in results/b.json"),
        ("SHA256SUMS", None, "has no SHA256SUMS"),
        ("SHA256SUMS", b"00  ../../a.json\n", "'../../a.json', which is no file of the book's"),
        ("SHA256SUMS", b"00  results/../../a\n", "which is no file of the book's data"),
        ("SHA256SUMS", b"\xff", "no archive of the book's data"),
    ],
)
def test_a_damaged_or_foreign_archive_writes_nothing(
    project, cache, tmp_path, name, contents, says
):
    archive = tmp_path / "mae-book.zip"
    pack(project, archive)
    replaced(archive, name, contents)
    with pytest.raises(InputError) as caught:
        unpack(archive)
    assert says in str(caught.value) and not cache.exists()


@pytest.mark.parametrize("keep", [0, 60, -30])
def test_a_download_cut_short_writes_nothing(project, cache, tmp_path, keep):
    archive = tmp_path / "mae-book.zip"
    pack(project, archive)
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(InputError, match="mae-book.zip"):
        unpack(archive)
    with pytest.raises(InputError, match="there is no file"):
        unpack(tmp_path / "none.zip")
    assert not cache.exists()
