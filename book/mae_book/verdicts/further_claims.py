"""The claims on photographs, and those of section 3.6 on the quad-tree world."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mae_book.verdicts.claim import Claim
from mae_book.verdicts.claims import CLAIMS
from mae_book.verdicts.comparisons import Above


def _real(identity: str, data: str, measures: Iterable[str] = ()) -> Claim:
    """A claim's tests on a folder of photographs; on ``measures`` alone, where that folder does not
    give all (or gives others, for the shifted sets)."""
    own = CLAIMS[identity]
    first = own.tests[0].measure
    repeated = tuple(
        replace(test, measure=measure)
        for measure in measures
        for test in own.tests
        if test.measure == first
    )
    return replace(own, tests=repeated or own.tests, data=data)


REAL: dict[str, Claim] = {
    each.id: each
    for each in (
        *(_real(identity, "in20") for identity in ("F5a", "F5b", "F5c", "F8a", "F8b", "T1r")),
        _real("T1v", "pacs", ("mean/art_painting", "mean/cartoon", "mean/sketch")),
        _real("T1p", "in20", ("mean/validation",)),
        _real("T2s", "geirhos"),
        _real("T3b", "dsb2018"),
    )
}
"""The claims that are also tested on photographs, by the same tests: models of twenty ImageNet
classes at 64 px (``in20``; PACS' other styles are its shifted sets) and of Tiny-ImageNet at 32 px
on Geirhos's cue-conflict stimuli; T3b on nuclei (Data Science Bowl 2018). F6, F7 and F6p need the
objects' masks, which these folders lack; T3 and T3p need eight models fine-tuned on COCO; S1 to S3
need the latents, which no photograph tells.
"""


TREE_CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            "S2-tree",
            "§3.6, quad-tree",
            "masks that hide whole subtrees read out the level they point at better than random"
            " ones",
            "tree_world",
            "chapter-improvements",
            (
                Above("mean/level3", "subtrees2-r50", "random-r50"),
                Above("mean/level2", "subtrees1-r50", "random-r50"),
            ),
            data="",
        ),
        Claim(
            "S2e-tree",
            "§3.6, quad-tree",
            "the same with the subtrees estimated from data",
            "tree_world",
            "chapter-improvements",
            (
                Above("mean/level3", "estimated4-r50", "random-r50"),
                Above("mean/level2", "estimated16-r50", "random-r50"),
            ),
            data="",
        ),
        Claim(
            "S2c-tree",
            "ours",
            "it is the tree and not the size of the blocks: equally large blocks off the tree read"
            " out the root worse",
            "tree_world",
            "chapter-improvements",
            (Above("mean/level3", "subtrees2-r50", "shifted2-r50"),),
            data="",
        ),
        Claim(
            "S1-tree",
            "§3.6, quad-tree",
            "a margin on contiguous masks off the tree, which takes c from level 1 to 2, reads out"
            " level 2 better",
            "tree_world",
            "chapter-improvements",
            (Above("mean/level2", "shifted2-margin1-r50", "shifted2-r50"),),
            data="",
        ),
        Claim(
            "S1m-tree",
            "§3.6, scattered",
            "the same margin on random patches",
            "tree_world",
            "chapter-improvements",
            (Above("mean/level2", "margin1-r50", "random-r50"),),
            data="",
        ),
    )
}
"""The comparisons that decide, as `mae_book.verdicts.ledger.decide` takes them with
`results/tree_world`."""
