"""The first page: its numbers are those of the ledger's records, it refuses to say what they no
longer say, and the README holds the same."""

from __future__ import annotations

import re
import statistics

import pytest

from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_book.front import first_page, pictures
from mae_book.verdicts.results import read_results, repository
from mae_lib.base.errors import InputError


def test_every_number_of_the_probe_is_that_of_the_records():
    last, runs = list(pictures.probes().items())[-1]
    records = read_results("probe", last)
    value = {(r["run"], r["seed"]): r["measures"]["mean/validation"]["value"] for r in records}
    seeds = list(runs["r75"])
    for other in ("r10", "r50", "r90"):
        mean = statistics.fmean(value["r75", seed] - value[other, seed] for seed in seeds)
        assert f"{mean:+.2f} [" in first_page.findings()[0]
    assert f"{len(seeds)} seeds" in first_page.findings()[0]
    assert pictures.LENGTHS[last] in first_page.findings()[0]


def test_what_the_results_do_not_say_is_not_said(monkeypatch):
    real = pictures.probes()
    backwards = {
        data: dict(zip(runs, list(runs.values())[::-1])) for data, runs in real.items()
    } | {"world": real["world"]}
    monkeypatch.setattr(first_page, "probes", lambda: backwards)
    with pytest.raises(InputError, match="no longer say that 0.75 beats both ends"):
        first_page.findings()


def test_the_readme_says_what_the_first_page_says():
    text = (repository() / "README.md").read_text(encoding="utf-8")
    (block,) = first_page.BLOCK.findall(text)
    said = [f"{k}. {finding}" for k, finding in enumerate(first_page.findings(), 1)]
    assert block.strip() == "\n".join([*said, "", first_page.counted()]), (
        "run python -m mae_book.front.first_page"
    )
    assert (repository() / "book" / "story.png").is_file()


def test_every_question_leads_to_a_chapter_and_minutes_count_words(tmp_path, monkeypatch):
    chapters = {path.stem for path in (repository() / "notebooks").glob("*.ipynb")}
    assert set(first_page.QUESTIONS.values()) <= chapters
    listed = re.findall(
        r"\| \[.*?\]\(\.\./notebooks/(\w+)\.ipynb\) \| (\d+) \|", first_page.questions()
    )
    assert [name for name, _ in listed] == list(first_page.QUESTIONS.values())
    whole = first_page.minutes(name for name, _ in listed)
    assert abs(whole - sum(int(n) for _, n in listed)) <= len(listed) / 2 + 1


def test_both_pictures_are_drawn():
    assert len(pictures.story().axes) == 5
    ratio = pictures.ratio_curves()
    names = [text.get_text() for text in ratio.axes[1].get_legend().get_texts()]
    assert len(names) == len(pictures.probes()) and all("seeds" in name for name in names)
