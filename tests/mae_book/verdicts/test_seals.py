"""The seal on results/: it holds here, names whatever is touched, and is sha256sum's own file."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess

import pytest

from mae_book.verdicts import seals
from mae_book.verdicts.results import results_directory
from mae_lib.base.errors import InputError


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A sealed copy of some of the project's results that a test may change."""
    for kind in ("pretraining", "reconstruction"):
        shutil.copytree(results_directory() / kind / "world", tmp_path / "results" / kind)
    monkeypatch.setattr(seals, "results_directory", lambda: tmp_path / "results")
    seals.seal()
    return tmp_path / "results"


def test_the_results_of_the_project_are_sealed():
    faults = seals.changes().faults()
    assert not faults, "\n".join(faults)


def test_any_number_changed_by_hand_is_named_whether_a_claim_uses_it_or_not(copy):
    draw = random.Random(0)
    for path in draw.sample(sorted(copy.rglob("*.json")), 20):
        kept = path.read_text()
        spot = draw.choice(list(re.finditer(r"\d", kept)))
        other = draw.choice([d for d in "0123456789" if d != spot[0]])
        path.write_text(kept[: spot.start()] + other + kept[spot.end() :])
        assert seals.changes().changed == (path.relative_to(copy).as_posix(),)
        (fault,) = seals.changes().faults()
        assert path.name in fault and "is not what was sealed" in fault
        path.write_text(kept)
        assert seals.changes().faults() == []


def test_what_has_come_and_gone_is_named_with_the_remedy_and_sealed_by_one_call(copy):
    gone = min(copy.rglob("r75*.json"))
    gone.unlink()
    new = copy / "probe" / "of mine" / "r75-1.json"
    new.parent.mkdir(parents=True)
    new.write_text("{}")
    (copy / "probe" / ".r75-2.json.12ab.part").write_text("half-writ")
    came, went = "probe/of mine/r75-1.json", gone.relative_to(copy).as_posix()
    assert seals.changes() == seals.Changes((came,), (), (went,))
    assert any(f"{came} is not sealed: `mae ledger --seal`" in f for f in seals.changes().faults())
    assert str(seals.seal()) == f"added: results/{came}\ngone: results/{went}"
    assert seals.changes().faults() == [] and str(seals.seal()) == ""


def test_a_file_that_the_book_writes_is_sealed_and_no_other_with_it(copy):
    (copy / "stated.json").write_text("{}")
    (copy / "by hand.json").write_text("{}")
    seals.seal_again(copy / "stated.json")
    assert seals.changes() == seals.Changes(("by hand.json",), (), ())


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_the_seal(copy):
    check = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=copy, capture_output=True).returncode == 0
    path = min(copy.rglob("*.json"))
    path.write_text(json.dumps({}))
    done = subprocess.run(check, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 1 and path.name in done.stdout


@pytest.mark.parametrize("bad", ["<<<<<<< HEAD", "abc  a.json", "twice"])
def test_a_damaged_seal_is_one_clear_error(copy, bad):
    lines = seals.seal_file().read_text().splitlines()
    seals.seal_file().write_text("\n".join([*lines, lines[0] if bad == "twice" else bad]) + "\n")
    with pytest.raises(InputError, match=rf"SHA256SUMS, line {len(lines) + 1}, .*--seal"):
        seals.changes()
