"""Every drawing takes the least and the oddest that it may be given, draws the numbers it was
given, and names what it cannot draw."""

from __future__ import annotations

from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from looking import drawn  # noqa: F401 (renders and closes every figure)
from mae_lib.base.errors import InputError
from mae_lib.base.tables import Table
from mae_lib.drawing import figures
from mae_lib.drawing.figures import HIDDEN_GREY, MARKERS, PALETTE
from mae_lib.worlds.world import World

# --------------------------------------------------------------------------------------------------
# Tables


class Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.cells = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_data(self, data):
        self.cells[-1] += data


def test_a_table_shows_its_cells_and_no_markup_of_theirs():
    table = Table(["name", "a < b"], [["<script>alert(1)</script>", 3], ["x & y", '"quoted"']])
    page = Cells(table._repr_html_())
    assert page.cells == ["name", "a < b", "<script>alert(1)</script>", "3", "x & y", '"quoted"']
    assert (
        set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
        and page.tags.count("tr") == 3
    )


def test_a_table_as_text_is_aligned():
    lines = repr(Table(["run", "loss"], [["a", 0.5], ["longer name", 10]])).splitlines()
    assert lines == ["run          loss", "a            0.5", "longer name  10"]
    assert (
        repr(Table(["only"], [])) == "only"
        and "<tbody></tbody>" in Table(["only"], [])._repr_html_()
    )


@pytest.mark.parametrize("row", [[], [1], [1, 2, 3]])
def test_a_table_of_uneven_rows_is_refused(row):
    with pytest.raises(InputError, match="2 cells"):
        Table(["a", "b"], [[1, 2], row])


# --------------------------------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_pictures_show_the_pixels(count, channels):
    images = torch.randint(0, 256, (count, channels, 6, 9), dtype=torch.uint8)
    figure = figures.image_rows(
        {"bytes": images, "floats": images / 255}, [str(k) for k in range(count)]
    )
    assert isinstance(figure, Figure) and len(figure.axes) == 2 * count
    for axis, image in zip(figure.axes, [*images, *images]):
        expected = image.permute(1, 2, 0).squeeze(-1).numpy() / 255
        assert np.allclose(axis.images[0].get_array(), expected, atol=1e-6)
        assert axis.images[0].get_clim() == (0, 1)  # a dark picture stays dark
    assert [axis.get_title() for axis in figure.axes[:count]] == [str(k) for k in range(count)]
    assert figure.axes[0].get_ylabel() == "bytes" and figure.axes[count].get_ylabel() == "floats"


@pytest.mark.parametrize(
    "rows, columns",
    [
        ({}, []),
        ({"a": torch.zeros(0, 3, 4, 4)}, []),
        ({"a": torch.zeros(2, 3, 4, 4), "b": torch.zeros(3, 3, 4, 4)}, []),
        ({"a": torch.zeros(2, 3, 4, 4)}, ["only one title"]),
        ({"a": torch.zeros(2, 4, 4, 4)}, []),
        ({"a": torch.zeros(2, 4, 4)}, []),
    ],
)
def test_what_is_no_row_of_pictures_is_refused(rows, columns):
    with pytest.raises(InputError):
        figures.image_rows(rows, columns)


def test_masked_pictures_hide_whole_patches_and_nothing_else():
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    kept = images.clone()
    hidden = torch.tensor([[0, 5], [3, 4]])
    found = figures.masked_pictures(images, hidden, (2, 3))
    assert torch.equal(images, kept) and found.dtype == torch.float32
    for b in range(2):
        for patch in range(6):
            rows, columns = (
                slice(4 * (patch // 3), 4 * (patch // 3) + 4),
                slice(4 * (patch % 3), 4 * (patch % 3) + 4),
            )
            expected = (
                torch.full((3, 4, 4), HIDDEN_GREY)
                if patch in hidden[b].tolist()
                else images[b, :, rows, columns] / 255
            )
            assert torch.allclose(found[b, :, rows, columns], expected)
    floats = images[:, :1] / 255
    assert torch.equal(figures.masked_pictures(floats, hidden, (2, 3)), found[:, :1])


def test_mask_grids_stand_upright():
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[0, 1] = True  # first row from the top, second column
    figure = figures.mask_grid({"one": mask, "two": ~mask, "three": mask}, columns=2)
    assert [axis.get_visible() for axis in figure.axes] == [True, True, True, False]
    drawn = np.asarray(figure.axes[0].collections[0].get_array()).reshape(3, 4)
    # pcolormesh counts rows from the bottom
    assert drawn.argmax() == 2 * 4 + 1 and drawn.sum() == 1
    assert [axis.get_title() for axis in figure.axes[:3]] == ["one", "two", "three"]
    figures.mask_grid({"single": mask[:1, :1]})
    for masks, columns in (({}, 4), ({"a": mask}, 0), ({"a": mask[None]}, 4)):
        with pytest.raises(InputError):
            figures.mask_grid(masks, columns)


def test_the_anatomy_of_images():
    batch = World("validation", 32).sample([3])
    figure = figures.world_anatomy(
        batch.images, batch.object_mask, torch.tensor([[3.0, 5.0, 20.0, 30.0]]), batch.part_labels
    )
    assert len(figure.axes) == 4
    (box,) = figure.axes[2].patches
    assert (box.get_x(), box.get_y(), box.get_width(), box.get_height()) == (2.5, 4.5, 17, 25)
    assert np.array_equal(figure.axes[3].images[0].get_array(), batch.part_labels[0])
    assert [axis.get_ylabel() for axis in figure.axes] == ["image", "object mask", "box", "parts"]
    with pytest.raises(InputError, match="not of one batch"):
        figures.world_anatomy(batch.images, batch.object_mask, batch.box[:, :3], batch.part_labels)


# --------------------------------------------------------------------------------------------------
# Curves and bars


def test_curves_hold_the_numbers_and_differ_by_colour_and_marker():
    runs = {f"run {k}": (list(range(1, 101)), np.linspace(1, 0.1, 100) + k) for k in range(8)}
    figure = figures.learning_curves({"left": runs, "right": {"single": ([1], [0.5])}}, skip=0.1)
    left, right = figure.axes
    assert (
        left.get_ylabel() == "loss" and left.get_yscale() == "log" and right.get_title() == "right"
    )
    for line, (steps, losses) in zip(left.lines, runs.values()):
        assert np.array_equal(line.get_xdata(), steps[10:]) and np.array_equal(
            line.get_ydata(), losses[10:]
        )
    looks = [(to_hex(line.get_color()), line.get_marker()) for line in left.lines]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 8
    assert list(right.lines[0].get_xdata()) == [1]
    assert [text.get_text() for text in left.get_legend().get_texts()] == list(runs)


@pytest.mark.parametrize(
    "panels", [{}, {"a": {}}, {"a": {"b": ([], [])}}, {"a": {"b": ([1, 2], [0.5])}}]
)
def test_curves_of_nothing_are_refused(panels):
    with pytest.raises(InputError):
        figures.learning_curves(panels)


def test_bars_carry_their_values():
    figure = figures.bars({"one": {"a": 1.25}, "two": {"b": 2.0, "c": 3.0}}, "height", "{:.2f}")
    assert [[bar.get_height() for bar in axis.patches] for axis in figure.axes] == [
        [1.25],
        [2.0, 3.0],
    ]
    assert [text.get_text() for axis in figure.axes for text in axis.texts] == [
        "1.25",
        "2.00",
        "3.00",
    ]
    assert figure.axes[0].get_ylabel() == "height"
    for values in ({}, {"a": {}}):
        with pytest.raises(InputError):
            figures.bars(values, "height")


def test_the_palette_has_no_doubles():
    assert len(set(PALETTE)) == len(PALETTE) == len(MARKERS) == len(set(MARKERS))


def test_curves_draw_lines_and_points_where_they_belong():
    figure = figures.curves(
        {"a": {"law": ([0, 1, 2], [1, 2, 3])}, "b": {"law": ([0, 1], [5, 6])}},
        "x",
        "y",
        points={"b": {"seen": ([0.5], [5.5])}},
        share_y=False,
    )
    left, right = figure.axes
    assert [line.get_xydata().tolist() for line in left.lines] == [[[0, 1], [1, 2], [2, 3]]]
    assert [line.get_xydata().tolist() for line in right.lines] == [[[0, 5], [1, 6]], [[0.5, 5.5]]]
    assert right.lines[1].get_linestyle() == "None" and right.lines[1].get_marker() != "None"
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["law", "seen"]
    assert (
        left.get_ylim() != right.get_ylim()
        and left.get_ylabel() == "y"
        and left.get_xlabel() == "x"
    )
    plt.close(figure)
    for panels, points in (
        ({}, None),
        ({"a": {}}, None),
        ({"a": {"law": ([0], [1, 2])}}, None),
        ({"a": {"law": ([0], [1])}}, {"b": {"seen": ([0], [1])}}),
    ):
        with pytest.raises(InputError, match="curve"):
            figures.curves(panels, "x", "y", points)


def test_heatmaps_write_each_number_in_its_square():
    figure = figures.heatmaps(
        {"one": np.array([[1.0, np.nan], [3.0, 4.0]]), "two": np.full((2, 2), 2.0)},
        ["r1", "r2"],
        ["c1", "c2"],
        "x",
        "y",
        "level",
    )
    one, two, bar = figure.axes
    assert sorted(
        (round(t.get_position()[1]), round(t.get_position()[0]), t.get_text()) for t in one.texts
    ) == [(0, 0, "1.00"), (1, 0, "3.00"), (1, 1, "4.00")]
    assert len(two.texts) == 4 and one.images[0].get_clim() == two.images[0].get_clim() == (
        1.0,
        4.0,
    )
    assert [t.get_text() for t in one.get_yticklabels()] == [
        "r1",
        "r2",
    ] and bar.get_ylabel() == "level"
    light, dark = (
        t.get_color() for t in sorted(one.texts, key=lambda t: t.get_text())[:: len(one.texts) - 1]
    )
    assert light != dark  # numbers stay legible on both ends of the scale
    plt.close(figure)
    for panels in ({}, {"one": np.zeros((1, 2))}, {"one": np.full((2, 2), np.nan)}):
        with pytest.raises(InputError, match="heatmap"):
            figures.heatmaps(panels, ["a", "b"], ["c", "d"], "x", "y", "z")
