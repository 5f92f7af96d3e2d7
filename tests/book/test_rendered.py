"""The rendered book, page by page: alt texts, captions, links, references, outputs, weight, network
and the skeleton of a chapter; and each check on a page with that one defect."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from book_pages import (  # noqa: F401 (book is a fixture)
    CHECKS,
    FEWEST_LETTERS,
    MOST_BYTES,
    ROOT,
    Page,
    book,
    chapter_names,
    page_names,
    read_page,
    remote_style,
    skeleton,
)
from mae_book.chapters.pages import chapter_pages
from mae_book.verdicts.ledger import every_claim

# the build is in the first test's time, on a machine that may be busy with others
pytestmark = pytest.mark.timeout(900)

CLAIMS: dict[str, tuple[str, ...]] = {
    f"notebooks/{page}": tuple(
        identity for identity, claim in every_claim().items() if claim.chapter == label
    )
    for label, page in chapter_pages().items()
}
"""Chapter → the claims that it decides."""


@pytest.mark.parametrize("check", CHECKS)
def test_no_page_has_a_defect(book: Path, check: str) -> None:
    found = [
        f"{name}: {defect}"
        for name in page_names(book)
        for defect in CHECKS[check](read_page(book, name))
    ]
    assert not found, "\n".join(found)


def test_every_chapter_has_the_whole_skeleton(book: Path) -> None:
    assert set(CLAIMS) == set(chapter_names(book)) and len(CLAIMS) >= 14
    found = [
        f"{name}: {defect}"
        for name, claims in CLAIMS.items()
        for defect in skeleton(read_page(book, name), claims)
    ]
    assert not found, "\n".join(found)


def test_what_a_chapter_offers_for_download_is_the_chapter(book: Path) -> None:
    for name in chapter_names(book):
        page = read_page(book, name)
        offered = page.local(page.whole.select_one("a.btn-download-source-button")["href"])
        assert (
            offered.read_bytes() == (book.parent.parent / name).with_suffix(".ipynb").read_bytes()
        ), name
        nbformat.validate(nbformat.read(offered, as_version=4))


def test_every_page_of_the_contents_is_built_and_linked_from_every_other(book: Path) -> None:
    contents = {
        line.split("file:")[1].strip() + ".html"
        for line in (ROOT / "_toc.yml").read_text().splitlines()
        if "file:" in line
    } | {"book/preface.html"}
    assert contents <= set(page_names(book))
    for name in page_names(book):
        page = read_page(book, name)
        reached = {
            page.local(tag["href"])
            for tag in page.whole.select("nav a[href], .bd-sidebar-primary a[href]")
        }
        missing = {other for other in contents if (book / other).resolve() not in reached}
        assert not missing, f"{name}: {missing}"


def test_no_style_sheet_fetches_anything(book: Path) -> None:
    sheets = list(book.rglob("*.css"))
    assert len(sheets) > 5
    assert not [
        str(path.relative_to(book))
        for path in sheets
        if remote_style(path.read_text(encoding="utf-8"))
    ]


# --------------------------------------------------------------------------------------------------
# Each check, on a page that has the one defect

GOOD = """<!doctype html><html><head><title>1</title>
<link href="_static/theme.css" rel="stylesheet"></head><body>
<a class="btn-download-source-button" href="_sources/page.ipynb">.ipynb</a>
<article class="bd-article"><section id="top"><h1>1 Title<a href="#top">#</a></h1>
<p><strong>The paper’s §3.1. Claim F5a.</strong> What this is about,
  in words enough that nobody would call the page empty: {words}.</p>
<p>You will be able to</p><ul><li>see one;</li><li>see two;</li><li>see three.</li></ul>
<p><em>Prerequisites:</em>
<a class="reference internal" href="other.html#there">another page</a>.</p>
<section id="one"><h2>Where it fails<a href="#one">#</a></h2>
<p>Cited: <a class="bibtex reference internal" href="other.html#entry">Somebody,
  2023</a>. <code>?? {{ref}}`in code`</code> is no reference.</p>
<figure id="fig"><img alt="A curve that rises." src="_images/curve.png"><figcaption>
<span class="caption-number">Figure 1 </span>
<span class="caption-text">What it shows.</span></figcaption></figure>
<div class="cell_output"><div class="output"><pre>3.0</pre>
<span class="tier-badge">tier laptop · two cores · made in 9.2 s</span></div></div></section>
<section id="two"><h2>Takeaways<a href="#two">#</a></h2>
<p>F5a holds. <a href="other.html#shared=x:101">State.</a></p></section>
<section id="three"><h2>Exercises<a href="#three">#</a></h2><ol><li>Do it.</li></ol>
<details><summary>Solution</summary><p>Done.</p></details></section>
<!-- more --></section></article></body></html>""".format(words="word " * 40)

OTHER = """<!doctype html><article class="bd-article"><h1 id="there">Other</h1>
<div class="citation-list"><div class="citation" id="entry">Somebody, 2023: Something.</div></div>
<script>const key = "shared";</script></article>"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name, content in {
        "page.html": GOOD,
        "other.html": OTHER,
        "_static/theme.css": "",
        "_images/curve.png": "",
        "_sources/page.ipynb": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path


def change(site: Path, old: str, new: str) -> Page:
    text = (site / "page.html").read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    (site / "page.html").write_text(text.replace(old, new), encoding="utf-8")
    return Page(site, "page.html")


def test_a_good_page_has_no_defect(site: Path) -> None:
    page = Page(site, "page.html")
    assert {name: check(page) for name, check in CHECKS.items()} == {name: [] for name in CHECKS}
    assert skeleton(page, ("F5a",)) == []


MORE = "<!-- more -->"


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        ("images", 'alt="A curve that rises."', ""),
        ("images", 'alt="A curve that rises."', 'alt=""'),
        ("images", 'alt="A curve that rises."', 'alt="../_images/a curve.png"'),
        ("images", 'alt="A curve that rises."', 'alt="curve"'),
        ("figures", '<span class="caption-number">Figure 1 </span>', ""),
        (
            "figures",
            '<span class="caption-text">What it shows.</span>',
            '<span class="caption-text"> </span>',
        ),
        ("figures", MORE, '<p><img alt="A second curve." src="_images/curve.png"></p>'),
        ("links", 'src="_images/curve.png"', 'src="_images/gone.png"'),
        ("links", "other.html#there", "gone.html#there"),
        ("links", "other.html#there", "other.html#gone"),
        ("links", 'href="#one"', 'href="#gone"'),
        ("links", "#shared=x:101", "#unknown=x:101"),
        ("links", "_static/theme.css", "_static/gone.css"),
        ("references", MORE, "<p>As Figure ?? shows.</p>"),
        ("references", MORE, "<p>See {ref}`chapter-sweep`.</p>"),
        ("references", MORE, "<p>See {numref}`fig-one`.</p>"),
        ("references", MORE, "<p>As in {cite:p}`he2022masked`.</p>"),
        ("references", MORE, "<p>As said [?].</p>"),
        ("references", MORE, '<p><span class="problematic">x</span></p>'),
        ("references", "other.html#entry", "other.html#there"),
        ("raw_output", "<pre>3.0</pre>", "<pre>Output()</pre>"),
        ("raw_output", "<pre>3.0</pre>", "<pre>VBox(children=(Dropdown(),))</pre>"),
        ("raw_output", "<pre>3.0</pre>", "<pre>Figure(640x480)</pre>"),
        ("raw_output", "<pre>3.0</pre>", "<pre>&lt;Figure size 640x480 with 1 Axes&gt;</pre>"),
        (
            "raw_output",
            "<pre>3.0</pre>",
            "<pre>&lt;mae_lib.model.autoencoder.Masks object at 0x7f00&gt;</pre>",
        ),
        ("raw_output", MORE, "<p>&lt;mae_lib.model.autoencoder.Masks object at 0x7f00&gt;</p>"),
        ("raw_output", MORE, '<div class="output stderr">UserWarning: x</div>'),
        ("tracebacks", "<pre>3.0</pre>", "<pre>Traceback (most recent call last)</pre>"),
        ("tracebacks", MORE, '<div class="output traceback">ZeroDivisionError</div>'),
        ("network", MORE, '<script src="https://unpkg.com/x.js"></script>'),
        ("network", '<link href="_static/theme.css"', '<link href="//fonts.example/x.css"'),
        ("network", 'src="_images/curve.png"', 'src="http://example.org/curve.png"'),
        ("network", MORE, "<div style=\"background: url( 'https://example.org/x.png')\"></div>"),
        ("network", MORE, '<style>@import "https://example.org/x.css";</style>'),
        ("network", MORE, '<iframe src="https://example.org"></iframe>'),
        ("network", MORE, '<script>fetch("https://example.org/data.json")</script>'),
    ],
)
def test_a_defect_is_found_by_its_own_check_alone(
    site: Path, check: str, old: str, new: str
) -> None:
    page = change(site, old, new)
    assert [name for name in CHECKS if CHECKS[name](page)] == [check]


def test_an_empty_page_is_found(site: Path) -> None:
    (site / "page.html").write_text(
        f"<article><h1>1 Title</h1><p>{'x' * (FEWEST_LETTERS - 10)}</p></article>"
    )
    assert CHECKS["emptiness"](Page(site, "page.html")) and not CHECKS["emptiness"](
        change(site, "</p>", "x" * 20 + "</p>")
    )


def test_a_page_that_is_too_large_with_its_own_images_is_found(site: Path) -> None:
    (site / "_images" / "curve.png").write_bytes(bytes(MOST_BYTES - len(GOOD.encode())))
    (site / "_static" / "theme.css").write_bytes(bytes(MOST_BYTES))  # shared by all pages
    assert not CHECKS["weight"](Page(site, "page.html"))
    (site / "_images" / "curve.png").write_bytes(bytes(MOST_BYTES - len(GOOD.encode()) + 1))
    assert CHECKS["weight"](Page(site, "page.html"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<h1>1 Title", "<h1>Title", "no title"),
        ("<strong>The paper’s §3.1. Claim F5a.</strong> What", "What", "what it is about"),
        ("Claim F5a.", "Claim F5b.", "does not name claim F5a"),
        ("Claim F5a.", "", "nothing about claims"),
        ("<li>see two;</li>", "", "three objectives"),
        ("<em>Prerequisites:</em>", "", "no prerequisites"),
        (" · made in 9.2 s", "", "no badge"),
        ("Takeaways", "Summary", "no section 'Takeaways'"),
        ("<h2>Exercises", "<h2>Tasks", "no section 'Exercises'"),
        ("Where it fails", "Conclusion", "no section 'Where it fails'"),
        ("<li>Do it.</li>", "<li>Do it.</li><li>Again.</li>", "2 exercises and 1 solutions"),
        ("<details>", "<details open>", "not folded"),
        ("_sources/page.ipynb", "_sources/page.md", "no notebook"),
        ("_sources/page.ipynb", "_sources/gone.ipynb", "no notebook"),
    ],
)
def test_a_missing_part_of_the_skeleton_is_found(site: Path, old: str, new: str, said: str) -> None:
    found = skeleton(change(site, old, new), ("F5a",))
    assert any(said in defect for defect in found), found
