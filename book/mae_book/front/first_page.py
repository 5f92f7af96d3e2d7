"""What the first page says in numbers, all of them from results, and how long pages take to read.
``python -m mae_book.front.first_page`` writes the same findings and the picture into the README.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping

import matplotlib

from mae_book.chapters import why_75
from mae_book.front.pictures import LENGTHS, probes, story
from mae_book.verdicts.comparisons import Above
from mae_book.verdicts.ledger import entries
from mae_book.verdicts.results import repository
from mae_lib.base.errors import InputError
from mae_lib.base.intervals import Interval
from mae_lib.theory.worth import finite_height_shares, height_shares

WORDS = 200
"""Read in a minute: prose with formulas, by somebody whose first language is another."""

QUESTIONS = {
    "What is a masked autoencoder?": "02_masked_autoencoder",
    "What do the two parts of an image share?": "03_locating_shared_information",
    "Why 75 %?": "03b_why_75",
    "Does a network find what they share?": "04_identifiability",
    "What does the ratio change in a trained model?": "08_linear_separability",
    "Where does it look?": "07_attention",
    "Does shape beat texture?": "09_shape_bias",
    "Does it help to find objects?": "10_transfer",
    "What would make the mask better?": "11_improvements",
    "Which claims of the paper hold?": "12_ledger",
    "Why are some numbers different here?": "13_differences",
    "What does a model of my own know?": "14_your_model",
}
"""A reader's question → the chapter that answers it."""

BLOCK = re.compile(r"(?<=<!-- findings -->\n).*(?=<!-- end of findings -->)", re.DOTALL)


def differences(values: Mapping[str, Mapping[int, float]]) -> dict[str, Interval]:
    """Accuracies of the probe, each less another, paired by seed, as ``r75-r10``; ``height2`` and
    ``height1``: R² at 0.9 less that at 0.1 in the quad-tree world."""
    difference = lambda found, high, low: Above("", high, low).difference(found)
    levels = why_75.readouts()
    return {
        "r75-r10": difference(values, "r75", "r10"),
        "r75-r50": difference(values, "r75", "r50"),
        "r75-r90": difference(values, "r75", "r90"),
        "height2": difference(levels["level2"], "r90", "r10"),
        "height1": difference(levels["level1"], "r90", "r10"),
    }


def findings() -> list[str]:
    """Three findings in Markdown, each with its numbers and their 95 % intervals over seeds.
    InputError where a result no longer says what the sentence around it says."""
    measured = probes()
    short, (last, long) = measured["world"], list(measured.items())[-1]
    early, late = differences(short), differences(long)
    (told,) = (
        found
        for decision in why_75.probe_decisions()
        if decision.claim.data == last
        for test, found, _ in decision.rows
        if test.runs == ("r90", "r10")
    )
    one = next(row.decision for row in entries(["T1a"])).rows[0][1]
    asked = [height_shares(r, 4, 12) for r in (0.1, 0.9)]
    times = round(sum(asked[1][1:]) / sum(asked[0][1:]))
    few, many = (100 * sum(finite_height_shares(r, 4, 3)[1:]) for r in (0.1, 0.9))
    far = why_75.far("world")
    facts = {
        "0.75 beats both ends after the longer training": late["r75-r10"].low > 0
        and late["r75-r90"].low > 0,
        "nothing is told after the short one": early["r75-r10"].low < 0 < early["r75-r10"].high,
        "height 2 is known better at 0.9": late["height2"].low > 0,
        "height 1 is not": late["height1"].value < 0,
        "far context is worth most at 0.9": max(far, key=far.__getitem__) == "r90",
        "one minimal set in every graph": one.value == 0 or one.value == 1,
    }
    if wrong := [fact for fact, holds in facts.items() if not holds]:
        raise InputError(f"the results no longer say that {wrong[0]}: write the first page anew")
    seeds = f"{late['r75-r10'].n} seeds"
    return [
        "**The paper's rise and fall are there, once training is long enough.** After "
        f"{LENGTHS[last]} a linear probe reads the class better at 0.75 than at 0.1 by "
        f"{late['r75-r10']:+.2f} (accuracy, 95 % interval, {seeds}), and better than at 0.9 by "
        f"{late['r75-r90']:+.2f}; over 0.5 it is {late['r75-r50']:+.2f}. After "
        f"{LENGTHS['world']}, 0.75 and 0.1 cannot be told apart: {early['r75-r10']:+.2f}.",
        "**What the two parts share can be computed exactly, and it does not explain the ratio.** "
        "For every mask there is one smallest set **c** of shared latents, and an algorithm finds "
        "it (proved; checked by brute force). But a mask and its complement have the same **c**. "
        "What differs is how often the loss asks for more than the lowest level: "
        f"{times:,} times as often at ratio 0.9 as at 0.1 on a deep quad-tree. On 8 × 8 patches "
        f"it is {many:.0f} % of all patches against {few:.2g} %.",
        "**What a level is worth to the loss predicts which levels are learned, in part.** Where "
        "the hierarchy is known and the prediction was registered first, latents of the middle "
        f"level are read out better at 0.9 than at 0.1 by {late['height2']:+.2f} (R², "
        f"{late['height2'].n} seeds), as predicted. Those of the lowest level are not: "
        f"{late['height1']:+.2f}. On images the same account has the top at 0.9, where the probe "
        f"has it at 0.75; that 0.9 is above 0.1 {'comes out' if told.low > 0 else 'is open'} on "
        f"the seeds that decide: {told:+.2f}.",
    ]


def counted() -> str:
    """How many claims came out how, in a sentence."""
    counts = Counter(row.decision.verdict for row in entries())
    return (
        f"Of {counts.total()} claims and variants: {counts['reproduced']} reproduced, "
        f"{counts['not reproduced']} not reproduced, {counts['undecided']} undecided. *Undecided* "
        "means that the interval over seeds holds both answers."
    )


def minutes(names: Iterable[str]) -> int:
    """Minutes that the prose of notebooks takes to read, from its words; ``notebooks/NAME``."""
    words = 0
    for name in names:
        file = repository() / "notebooks" / f"{name}.ipynb"
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                words += len(re.findall(r"\w+", "".join(cell["source"])))
    return max(1, round(words / WORDS))


def questions() -> str:
    """`QUESTIONS` as a table in Markdown, with links and minutes."""
    rows = [f"| [{q}](../notebooks/{name}.ipynb) | {minutes([name])} |" for q, name in
            QUESTIONS.items()]  # fmt: skip
    return "\n".join(["| question | minutes |", "|---|---|", *rows])


def reading_times() -> str:
    """How long to read what, in a sentence."""
    every = [path.stem for path in sorted((repository() / "notebooks").glob("*.ipynb"))]
    theory = minutes(name for name in every if name[:2] in ("01", "03"))
    return (
        f"At {WORDS} words per minute the theory (chapters 1, 3 and 3b) takes {theory} minutes and "
        f"all chapters {minutes(every) / 60:.0f} hours, without the exercises."
    )


def main() -> None:
    """Writes the findings into README.md, between its two marks, and the picture beside the
    preface."""
    matplotlib.use("agg")
    path = repository() / "README.md"
    listed = "\n".join(f"{k}. {finding}" for k, finding in enumerate(findings(), 1))
    text = path.read_text(encoding="utf-8")
    path.write_text(BLOCK.sub(lambda _: f"{listed}\n\n{counted()}\n", text), encoding="utf-8")
    story().savefig(repository() / "book" / "story.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
