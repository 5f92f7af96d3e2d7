"""What the paper has to refer to: its sections, statements, algorithms, equations, figures, tables
and symbols, each with its meaning in a sentence. This list is typed by hand from the paper's text;
where each item is in the code, the tests and the chapters is found by `book_map`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """One thing of the paper.

    Attributes:
        id: how the paper calls it ("§2.1", "Equation 2"); for a symbol, its name in words.
        kind: section, statement, algorithm, equation, figure, table or symbol.
        meaning: one sentence, MyST. section: number of the section it stands in, "2.3".
        tex: a symbol as the paper prints it.
        written: a symbol as the docstrings write it, a regular expression; they are searched in the
            modules that name its section.
        names: a symbol's names in the code: functions, methods, fields, attributes of classes in
            the same modules.
        of: what it is a part of: where nothing names the item itself, it is where the whole is.
    """

    id: str
    kind: str
    meaning: str
    section: str
    tex: str = ""
    written: re.Pattern[str] | None = None
    names: tuple[str, ...] = field(default=())
    of: str = ""


def _symbol(
    tex: str, name: str, section: str, meaning: str, written: str = "", names: str = ""
) -> Item:
    return Item(
        name,
        "symbol",
        meaning,
        section,
        tex,
        re.compile(written) if written else None,
        tuple(names.split()),
    )


KINDS = {
    "section": "Sections",
    "statement": "Assumptions and theorems",
    "algorithm": "Algorithms",
    "equation": "Equations",
    "figure": "Figures",
    "table": "Tables",
    "symbol": "Symbols",
}
"""kind → its heading, in the order of the page."""

ITEMS: tuple[Item, ...] = (
    Item("§2.1", "section", "images as the lowest level of a hierarchy of latent variables", "2.1"),
    Item("§2.2", "section", "the masked autoencoder: mask, encoder, decoder, objective", "2.2"),
    Item(
        "§2.3",
        "section",
        "what the two parts of an image share, and that the encoder recovers it",
        "2.3",
    ),
    Item("§3", "section", "the experiments' question, and the eight pretrainings", "3"),
    Item("§3.1", "section", "reconstruction, by structural and by pixel-level metrics", "3.1"),
    Item("§3.2", "section", "where the encoder's attention goes", "3.2"),
    Item("§3.3", "section", "how separable the classes are, and how robust the separation", "3.3"),
    Item("§3.4", "section", "shape against texture", "3.4"),
    Item("§3.5", "section", "transfer to detection and instance segmentation", "3.5"),
    Item(
        "§3.6",
        "section",
        "three suggestions: leave out the mask's boundary, follow the latent structure, use an"
        " extreme ratio where low-level information is wanted",
        "3.6",
    ),
    Item(
        "Assumption 1",
        "statement",
        "each variable is an invertible function of its parents and a noise, in a directed acyclic"
        " graph without edges between observables",
        "2.1",
    ),
    Item(
        "Theorem 1",
        "statement",
        "for each mask there is one minimal set $\\mathbf c$ of latents that carries all that both"
        " parts share",
        "2.3",
    ),
    Item(
        "Assumption 2",
        "statement",
        "decoder and encoder are locally invertible, and together lose nothing",
        "2.3",
        of="Theorem 2",
    ),
    Item(
        "Theorem 2",
        "statement",
        "the encoder of an optimal masked autoencoder recovers $\\mathbf c$ up to a one-to-one map",
        "2.3",
    ),
    Item(
        "Algorithm 1",
        "algorithm",
        "locates $\\mathbf c$ and $\\mathbf s_{\\mathbf m}$ in the graph",
        "2.3",
    ),
    Item(
        "Algorithm 2",
        "algorithm",
        "finds one instance of $\\mathbf s_{\\mathbf m^c}$, which is not unique",
        "2.3",
    ),
    Item(
        "Equation 1",
        "equation",
        "a variable is made from its parents and its own noise",
        "2.1",
        of="Assumption 1",
    ),
    Item(
        "Equation 2",
        "equation",
        "the objective: squared error of the masked part, in the mean over masks, images and"
        " $\\hat{\\mathbf s}_{\\mathbf m}$",
        "2.2",
    ),
    Item(
        "Figure 1",
        "figure",
        "masking and reconstruction under a hierarchical process",
        "1",
        of="§2.1",
    ),
    Item("Figure 2", "figure", "a hierarchical data-generating process", "2.1", of="Assumption 1"),
    Item(
        "Figure 3",
        "figure",
        "the two parts, what they share, and what belongs to each alone",
        "2.3",
        of="Theorem 1",
    ),
    Item(
        "Figure 4",
        "figure",
        "a small mask and a small visible part put low-level latents into $\\mathbf c$, what lies"
        " between need not",
        "2.3",
    ),
    Item("Figure 5", "figure", "SSIM, FSIM, PSNR and MSE over masking ratio and mask size", "3.1"),
    Item("Figure 6", "figure", "attention of the [CLS] token", "3.2"),
    Item("Figure 7", "figure", "attention of a token of the object", "3.2"),
    Item("Figure 8", "figure", "t-SNE embeddings of ten classes", "3.3"),
    Item("Table 1", "table", "linear probing on ImageNet-1K and five shifted sets", "3.3"),
    Item("Table 2", "table", "shape bias over the masking ratio", "3.4"),
    Item("Table 3", "table", "box and mask AP on COCO over the masking ratio", "3.5"),
    _symbol(
        r"\mathbf G",
        "the graph",
        "2.1",
        "the graph of all variables, $(\\mathbf V, \\mathbf E)$",
        r"\bgraph G\b",
    ),
    _symbol(r"\mathbf E", "edges", "2.1", "directed edges, from parent to child", names="edges"),
    _symbol(
        r"\mathbf Z",
        "latents",
        "2.1",
        "the latent variables $\\mathbf z_1 \\dots \\mathbf z_n$",
        names="latents",
    ),
    _symbol(
        r"\mathbf X",
        "observables",
        "2.1",
        "the observable variables $\\mathbf x_1 \\dots \\mathbf x_m$, pixels or patches",
        names="observables",
    ),
    _symbol(
        r"\mathrm{Pa}(\cdot)", "parents", "2.1", "the parents of a variable", r"Pa\(", "parents"
    ),
    _symbol(
        r"\varepsilon",
        "noise",
        "2.1",
        "the exogenous noise of a variable: what it adds to its parents",
        "ε",
        "noise_dims",
    ),
    _symbol(
        "g",
        "mechanism",
        "2.1",
        "the invertible function that makes a variable",
        r"\bg_?v?\(|\bg_v\b|mechanism at every node",
    ),
    _symbol(
        r"\mathbf m",
        "mask",
        "2.2",
        "the set of hidden patches; $\\mathbf m^c$ are the visible ones",
        r"the mask's other half",
        "sample",
    ),
    _symbol(
        "p_{\\mathbf m}",
        "law of the mask",
        "2.2",
        "the distribution that masks are drawn from",
        r"\bp_m\b",
    ),
    _symbol(
        "r",
        "masking ratio",
        "2.2",
        "share of the image that is hidden",
        r"ratio r\b|share r\b",
        "ratio",
    ),
    _symbol(
        "s",
        "mask unit",
        "2.2",
        "side of the smallest block that is hidden as a whole; the paper calls it patch size",
        r'"patch size" s',
        "unit",
    ),
    _symbol(
        r"E_{\mathbf m^c}",
        "encoder",
        "2.2",
        "maps the visible part to $\\hat{\\mathbf c}$",
        r"\bE\(x|encoder E\b",
        "encode",
    ),
    _symbol(
        r"D_{\mathbf m}",
        "decoder",
        "2.2",
        "predicts the masked part from $\\hat{\\mathbf c}$ and $\\hat{\\mathbf s}_{\\mathbf m}$",
        r"\bD\(|decoder D\b",
        "decode",
    ),
    _symbol(
        r"\hat{\mathbf c}",
        "representation",
        "2.2",
        "what the encoder returns: the estimate of $\\mathbf c$",
        "ĉ",
    ),
    _symbol(
        r"\hat{\mathbf s}_{\mathbf m}",
        "auxiliary input",
        "2.2",
        "positions and mask token, given to the decoder",
        "ŝ_m",
    ),
    _symbol(
        "L(E, D)",
        "objective",
        "2.2",
        "the loss of equation 2",
        r"objective of eq\. 2|loss of eq\. 2",
    ),
    _symbol(
        r"\mathbf c",
        "shared information",
        "2.3",
        "the minimal set of latents that both parts depend on",
        r"\bc\b",
        "c",
    ),
    _symbol(
        r"\mathbf s_{\mathbf m}",
        "specific to the masked part",
        "2.3",
        "what belongs to the masked part alone",
        r"\bs_m\b",
        "s_m",
    ),
    _symbol(
        r"\mathbf s_{\mathbf m^c}",
        "specific to the visible part",
        "2.3",
        "what belongs to the visible part alone; not unique",
        r"\bs_mc\b|s_mᶜ",
        "s_mc",
    ),
    _symbol(
        r"\mathbf x_{\mathbf m}, \mathbf x_{\mathbf m^c}",
        "the two parts",
        "2.3",
        "the masked and the visible part of the image",
        r"\bx_m\b|x_mᶜ",
        "masked visible",
    ),
    _symbol(
        "d_{\\mathbf c}",
        "dimension of c",
        "2.3",
        "how many independent numbers $\\mathbf c$ holds",
        r"\bd_c\b|d̂",
        "intrinsic_dim code_dim",
    ),
    _symbol(
        "h",
        "one-to-one map",
        "2.3",
        "the map between $\\mathbf c$ and $\\hat{\\mathbf c}$ of Theorem 2",
        r"one-to-one",
        "code_to_c c_to_code",
    ),
)
"""Everything on the map."""
