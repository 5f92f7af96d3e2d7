"""The explorers that tests open: each kind once, small; and what every one's page has to show,
which is what its Python says of the state in its own link."""

from __future__ import annotations

import functools
import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from bs4 import BeautifulSoup

from browser import Browser
from mae_book.explorers.attention_explorer import AttentionExplorer
from mae_book.explorers.explorer import Explorer
from mae_book.explorers.ledger_explorer import LedgerExplorer
from mae_book.explorers.level_explorer import LevelExplorer
from mae_book.explorers.mask_explorer import MaskExplorer
from mae_book.explorers.mask_models import READ as READOUTS
from mae_book.explorers.mask_models import SHARES, MaskModel
from mae_book.explorers.masking_explorer import MaskingExplorer
from mae_book.explorers.shared_explorer import SharedExplorer
from mae_book.explorers.worth_explorer import WorthExplorer
from mae_book.verdicts.ledger import entries
from mae_lib.model.autoencoder import MaskedAutoencoder
from mae_lib.theory.graph import LatentGraph
from mae_lib.theory.graphs import quad_tree
from mae_lib.training.config import PretrainConfig
from mae_lib.training.loop import Trained
from mae_lib.training.store import Checkpoint, save
from mae_lib.training.tiers import tier
from mae_lib.worlds.world import World

SMOKE = tier("smoke")
WORLD = World("train", 32).identity
FOLDER = {
    "kind": "folder", "split": "train", "image_size": [32, 32], "channels": 3, "images": 4,
    "classes": 2, "fingerprint": "0",
}  # fmt: skip
BATCH = World("validation", 32).sample(range(3))
SMALL = {"quad": (quad_tree((4, 4)), (4, 4)), "pairs": (quad_tree((4, 8), 2), (4, 8))}
HOSTILE = [
    "</script><b id=out>",
    "<!--<script>",
    '"}];alert(1);//',
    "$id ${data} $$ {id}",
    "\u2028",
]


def stored(config: PretrainConfig, tier_name: str = "smoke", folder: Path | None = None):
    """A checkpoint of an untrained model whose attention is far from even."""
    torch.manual_seed(config.unit)
    model = MaskedAutoencoder(config.model).eval()
    for block in model.encoder:
        block.attn.qkv.weight.data.mul_(2.5)
    folder = folder or Path(tempfile.mkdtemp())
    return save(Trained(model, torch.linspace(1, 0.5, 5), 1.0), config, folder, tier_name)


@functools.cache
def runs() -> list[Checkpoint]:
    """4 × 4 patches in one layer, 4 × 4 in three layers of four heads, 8 × 8 in one layer."""
    deep = replace(SMOKE.config(WORLD, 0.9), model=replace(SMOKE.model, depth=3, heads=4))
    large = SMOKE.config(WORLD, 0.75, 16, 4)
    return [stored(SMOKE.config(WORLD, 0.5)), stored(deep, "custom"), stored(large)]


@functools.cache
def mask_models() -> list[MaskModel]:
    """Two lengths of training at two ratios: untrained, 4 × 4 patches, with readouts at random."""
    found = []
    for k, (steps, ratio) in enumerate(((5, 0.5), (5, 0.75), (40, 0.5), (40, 0.75))):
        run = stored(replace(SMOKE.config(WORLD, ratio), steps=steps, seed=k))
        weights = {name: w.half() for name, w in run.load().state_dict().items()}
        outs = sum(READOUTS.values())
        readout = torch.randn(SMOKE.model.width + 1, outs, generator=torch.manual_seed(k)) / 9
        errors = {name: [0.01 * (k + j) for j in range(len(SHARES))] for name in READOUTS}
        spread = dict.fromkeys(READOUTS, 0.5)
        found.append(MaskModel(run.config, weights, readout, errors, spread, run.path.stem))
    return found


def levels(**arguments) -> LevelExplorer:
    return LevelExplorer(SMALL, **{"ratios": (0.1, 0.25, 0.5, 0.75), "masks": 60, **arguments})


@functools.cache
def explorer(kind: str, name: str = "") -> Explorer:
    """One of each kind; with ``name``, one in which something is called that, if it has
    names."""
    names = [name or "one", "two"]
    if kind == "masking":
        return MaskingExplorer(runs()[::2], BATCH.images, names=[*names, "three"])
    if kind == "attention":
        run = runs()[1].config.name
        masks = BATCH.object_mask[:2]
        return AttentionExplorer(runs(), BATCH.images[:2], masks, names, run=run, patch=6)
    if kind == "shared" and name:
        return SharedExplorer({name: LatentGraph([("z", name), ("z", "x")], [name, "x"])})
    if kind == "shared":
        return SharedExplorer()
    if kind == "levels" and name:
        return LevelExplorer({name: SMALL["quad"]}, ratios=(0.5,), masks=5)
    if kind == "levels":
        return levels()
    if kind == "mask":
        return MaskExplorer(mask_models(), range(3))
    if kind == "worth":
        return WorthExplorer(0.85, 0.2, 1, masks=4)
    rows = entries(["T1a", "F4a", "T1r", "T2s"])
    if name:
        rows[0] = replace(rows[0], claim=replace(rows[0].claim, statement=name))
    return LedgerExplorer(rows, {"chapter-separability": "08_linear_separability.html"})


KINDS = ("mask", "masking", "attention", "shared", "levels", "worth", "ledger")

READ = """
const root = document.querySelectorAll("." + arguments[0] + "-explorer")[arguments[1] || 0];
const at = role => root.querySelector('[data-role="' + role + '"]'), texts = {};
for (const e of root.querySelectorAll("[data-role]")) texts[e.dataset.role] = e.textContent;
const panes = [...root.querySelectorAll("[data-pane]")].filter(pane => !pane.hidden);
const focus = document.activeElement;
return { texts, panes: panes.length, drawn: panes[0].innerHTML, hash: location.hash,
  link: at("link").getAttribute("href"), note: at("note").hidden ? "" : texts.note,
  words: [...root.querySelectorAll("input[type=range]")].every(input => // told to all
    input.getAttribute("aria-valuetext") === texts[input.dataset.role + "-words"]),
  focus: focus.dataset.role || focus.textContent, top: root.getBoundingClientRect().top };
"""
"""What stands on the page: of the explorer of a kind (and its place among several)."""


def parts(drawn: str) -> list[tuple]:
    """The elements of a drawing with their texts, without what only the page's script adds."""
    own = {"style", "data-button", "tabindex", "role", "aria-sort"}
    return [
        (tag.name, {k: v for k, v in tag.attrs.items() if k not in own}, tag.find(string=True))
        for tag in BeautifulSoup(drawn, "html.parser").find_all(True)
    ]


def look(tab: Browser, shown: Explorer, place: int = 0, linked: bool = True) -> dict:
    """Checks that a page shows what the library says of the state in its link, and returns what
    stands there, with this ``state``."""
    for _ in range(50):
        found = tab.js(READ, shown.KIND, place)
        if found["hash"] == found["link"] or not linked:
            break
        time.sleep(0.02)  # the address follows a little later
    assert found["hash"] == found["link"] or not linked
    mark = f"#{shown.KIND}" + (f"-{place + 1}" if place else "")
    assert found["link"].startswith(mark)
    link = f"#{shown.KIND}" + found["link"].removeprefix(mark)
    state = found["state"] = shown.state(link)
    assert shown.link(*state) == link and f'("{link}")' in found["texts"]["code"]
    assert found["panes"] == 1 and found["words"]
    if shown.KIND == "ledger":
        return found
    assert found["texts"]["command"] == shown.command(*state)
    says = {key: found["texts"][key] for key in shown.SAYS}
    if shown.KIND == "attention":  # from a table in bytes: numbers to a per cent, and ties
        says, wanted = ({k: NUMBER.sub("#", v) for k, v in s.items() if k != "peak"}
                        for s in (says, shown.reading(*state)))  # fmt: skip
        assert says == wanted
        return found
    if shown.KIND == "mask":  # its script computes all anew: pictures and last digits are its own
        wanted = shown.reading(*state)
        error, true = (each.pop("error").replace("–", "0") for each in (says, wanted))
        assert says == wanted and abs(float(error) - float(true)) < 2e-4
        assert kinds(found["drawn"]) == kinds(shown.picture(*state))
        return found
    assert says == shown.reading(*state)
    assert parts(found["drawn"]) == parts(shown.picture(*state))
    return found


def kinds(drawn: str) -> list[str]:
    """Of the drawing of a mask what holds to the letter: what is hidden, the kinds of the tree's
    nodes, what each level is worth, and the truth."""
    soup = BeautifulSoup(drawn, "html.parser")
    told = [td.get_text() for td in soup.select("td") if "read-" not in str(td)]
    cells = [rect["class"][0] for rect in soup.select("[data-role=pad] g rect")]
    return cells + [node["data-kind"] for node in soup.select("[data-node]")] + told


NUMBER = re.compile(r"\d+\.\d(?= %)")


def follow(tab: Browser, link: str) -> None:
    """Follows a link within the page, and waits until the page has."""
    tab.js(
        "return new Promise(done => { addEventListener('hashchange', () => setTimeout(done), {"
        " once: true }); location.hash = arguments[0]; })",
        link,
    )
