"""The explorer of the ledger: each claim once, nothing unescaped, counts and numbers are the
ledger's, the same rows on all three faces."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

from mae_book.explorers.ledger_explorer import SIGNS, LedgerExplorer, score
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.comparisons import Above, Alike, AtLeast, NotBelow
from mae_book.verdicts.ledger import Decision, Entry
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval


def entry(identity: str, value: float | None = None, **changes) -> Entry:
    claim = replace(CLAIMS[identity], **changes)
    found = Interval(value or 0.0, (value or 0.0) - 0.01, (value or 0.0) + 0.01, 3)
    rows = (
        () if value is None else tuple((test, found, test.outcome(found)) for test in claim.tests)
    )
    verdict = "not attempted" if value is None else rows[0][2]
    ours = (
        {}
        if value is None
        else {test.measure: dict.fromkeys(test.runs, found) for test in claim.tests}
    )
    return Entry(claim, Decision(claim, verdict, rows), ours, None)


ROWS = [
    entry("T1a"),
    entry("F6", 0.05, statement='a <b> & "c"'),
    entry("T1r", -0.05),
    entry("S2", 0.005),
]


def test_each_claim_is_one_anchor_escaped_and_counted():
    explorer = LedgerExplorer(ROWS)
    page = explorer.html()
    assert re.findall(r'<tbody id="ledger-([^"]+)"', page) == ["T1a", "F6", "T1r", "S2"]
    assert "a &lt;b&gt; &amp; &quot;c&quot;" in page and "a <b>" not in page
    assert explorer.counts() == {
        "reproduced": 1,
        "not reproduced": 1,
        "undecided": 1,
        "not attempted": 1,
    }
    assert all(sign in page for sign in SIGNS.values())
    assert "paper 67.41, ours -5.00" in page  # both in percent


def test_the_same_rows_on_all_faces():
    explorer = LedgerExplorer(ROWS)
    figure = explorer.figure()
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [
        row.claim.id for row in ROWS
    ]
    plt.close(figure)
    assert [
        explorer.widget().children[-1].value.count(f"{row.claim.id}: tests, numbers")
        for row in ROWS
    ] == [1] * 4
    assert [row.claim.id for row in explorer.selected(["undecided"])] == ["S2"]
    assert [row.claim.id for row in explorer.selected(part="theory")] == ["T1a"]


@pytest.mark.parametrize(
    "test",
    [
        Above("m", "a", "b"),
        Alike("m", "a", "b", 0.02),
        NotBelow("m", "a", "b", 0.02),
        AtLeast("m", "a", 0.5),
    ],
)
def test_the_score_says_what_the_test_says(test):
    for k in range(-199, 200):
        found = Interval(k / 100 + 0.003, k / 100 - 0.004, k / 100 + 0.01, 3)
        at = score(test, found)
        assert test.outcome(found) == (
            "reproduced" if at > 1 else "not reproduced" if at < -1 else "undecided"
        )
    assert math.isnan(score(test, Interval(0.1, math.nan, math.nan, 1)))


def test_refusals():
    with pytest.raises(InputError, match="at least one row"):
        LedgerExplorer([])
    with pytest.raises(InputError, match="one claim"):
        LedgerExplorer([ROWS[0], ROWS[0]])
    with pytest.raises(InputError, match="no sort 'size': choose one of 'order', 'id'"):
        LedgerExplorer(ROWS).selected(sort="size")
