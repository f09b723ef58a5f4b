"""The page and its plots, without a browser."""

from __future__ import annotations

import base64
import math
import re

import numpy as np
import pytest

from tests.unit.report.browser import pixels
from tests.unit.report.conftest import CURVE, RECORDS, record, witness
from verinet.report.axes import Axis, label, logarithmic, straight
from verinet.report.data import load_run
from verinet.report.page import clock, number, page, share
from verinet.report.pictures import as_image, pictures_of, png
from verinet.report.plots import cactus, curve, gap_points, scatter


def test_plots_have_as_many_points_as_the_data(run, other):
    mine, theirs = load_run(run), load_run(other)
    drawn = cactus([(mine.name, mine.entries), (theirs.name, theirs.entries)])
    solved = [sum(e.solved for e in results.entries) for results in (mine, theirs)]
    assert drawn.count("<circle") == sum(solved)
    assert re.findall(r'data-points="(\d+)"', drawn) == [str(count) for count in solved]
    pairs = list(zip(mine.entries, theirs.entries, strict=False))
    dots = scatter(mine, theirs, pairs)
    assert dots.count("<circle") == len(pairs) == 8 and dots.count('class="clash"') == 1


def test_a_curve_has_the_bounds_that_are_known(run):
    entry = load_run(run).entries[4]
    assert gap_points(entry) == [(point[0], point[1]) for point in CURVE[1:]]
    assert 'data-points="3"' in curve(entry)
    assert curve(load_run(run).entries[1]) is None


def test_places_on_a_cactus_plot_follow_the_numbers(run):
    drawn = cactus([("run", load_run(run).entries)])
    places = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert places == sorted(places) and [y for _, y in places] == sorted((y for _, y in places), reverse=True)


@pytest.mark.parametrize("values", [[0.3], [1.0, 1.0], [0.001, 5000.0], [math.inf], [], [0.0]])
@pytest.mark.parametrize("make", [straight, logarithmic])
def test_axes_hold_their_values_and_have_round_ticks(make, values):
    axis = make(values, 10.0, 110.0)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 11 and ticks == sorted(ticks)
    assert all(axis.low <= tick <= axis.high * (1 + 1e-9) for tick in ticks)
    assert all(10.0 <= axis.at(value) <= 110.0 for value in values)


def test_an_axis_turned_round():
    axis = Axis(1.0, 100.0, 200.0, 0.0, log=True)
    assert (axis.at(1.0), axis.at(10.0), axis.at(100.0), axis.at(math.inf)) == (200.0, 100.0, 0.0, 0.0)


@pytest.mark.parametrize(("value", "text"), [(0.1, "0.1"), (20.0, "20"), (1e-5, "1e-5"), (1e7, "1e7"), (0.0, "0")])
def test_tick_labels(value, text):
    assert label(value) == text


def test_a_png_reads_back(tmp_path):
    random = np.random.default_rng(0)
    for shape in ((5, 7), (6, 4, 3)):
        image = random.integers(0, 256, shape, dtype=np.uint8)
        found = pixels(base64.b64decode(png(image).partition(",")[2]))
        assert (found == (image if image.ndim == 3 else image[:, :, None])).all()


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ([1, 1, 28, 28], (28, 28)),
        ([1, 784], (28, 28)),
        ([1, 3, 32, 32], (32, 32, 3)),
        ([1, 32, 32, 3], (32, 32, 3)),
        ([1, 3072], (32, 32, 3)),
        ([1, 64], (8, 8)),
        ([1, 1, 1, 5], None),
        ([1, 308], None),
        ([1, 16, 8, 8], None),
    ],
)
def test_which_inputs_are_pictures(shape, wanted):
    values = np.arange(math.prod(shape), dtype=float)
    found = as_image(values, [shape])
    assert (None if found is None else found.shape) == wanted


def test_channels_and_rows_stay_in_their_places():
    values = np.arange(3 * 6 * 7, dtype=float)
    by_channel, by_pixel = as_image(values, [[1, 3, 6, 7]]), as_image(values, [[1, 6, 7, 3]])
    assert by_channel[2, 5, 1] == 1 * 42 + 2 * 7 + 5 and by_pixel[2, 5, 1] == (2 * 7 + 5) * 3 + 1


def test_two_inputs_are_no_picture():
    assert as_image([0.0] * 128, [[1, 64], [1, 64]]) is None


def test_pictures_of_a_witness():
    shown = pictures_of(witness(8))
    assert shown.largest == pytest.approx(0.1) and shown.width == 8
    change = pixels(base64.b64decode(shown.change.partition(",")[2])).astype(int)
    up, down = change[0, 0], change[0, 1]
    assert up[0] > up[2] and down[2] > down[0]  # more is orange, less is blue
    assert pictures_of({"inputs": [1.0, 2.0], "outputs": [1.0], "shapes": [[1, 2]]}) is None
    assert pictures_of(witness(8) | {"centre": None}).original == ""


def test_the_page_says_what_the_run_found(run):
    text = page(load_run(run))
    assert "<strong>5</strong> of 9 instances solved (56\u2009%)" in text
    for part in ("the worker was ended by signal 11", "verinet 0.1.0", "out of time", "1" * 64, "seed 11"):
        assert part in text
    assert text.count("data:image/png;base64,") == 6  # two pictures with original and difference
    assert text.count('<tr id="i') == 9


def test_the_page_needs_no_network(run, other):
    text = page(load_run(run), [load_run(other)])
    addresses = set(re.findall(r"(?:src|href)=\"([^\"#][^\"]{0,20})", text))
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?://|@import|url\(", text)


def test_names_cannot_break_the_page(make_run):
    evil = "<img src=x onerror=alert(1)>\"'&"
    records = [record(1, "unsat", 1.0, family=evil, model=evil, property=evil), RECORDS[6]]
    text = page(load_run(make_run(records)), [load_run(make_run(records, "<b>other"))])
    assert "<img src=x" not in text and "<b>other" not in text and "<script>bad" not in text
    assert "&lt;img src=x" in text and "&lt;script&gt;bad()" in text


def test_disagreements_raise_an_alarm(run, other):
    text = page(load_run(run), [load_run(other)])
    assert "The two disagree on 1: one of the answers is wrong." in text
    assert "The two disagree" not in page(load_run(run))


def test_others_without_a_common_instance_are_named(run, make_run):
    strange = make_run([record(1, "unsat", 1.0, model="x.onnx")], "strange")
    text = page(load_run(run), [load_run(strange)])
    assert "No instance in common with strange" in text and 'class="plot scatter"' not in text


def test_a_run_where_nothing_is_open_or_found(make_run):
    text = page(load_run(make_run([record(1, "unsat", 1.0)])))
    assert "Nothing is open" in text and "No counterexample was found" in text


def test_a_run_where_nothing_is_solved(make_run):
    text = page(load_run(make_run([record(1, "unknown", 1.0, gap=2.0)])))
    assert 'class="plot cactus"' not in text and "(0\u2009%)" in text


def test_numbers_for_people():
    assert [number(v) for v in (None, math.inf, 0.0, 0.012345, 12345.0)] == ["–", "∞", "0", "0.0123", "12\u2009345"]
    assert [share(p, 1000) for p in (0, 1, 999, 1000)] == ["0\u2009%", "1\u2009%", "99\u2009%", "100\u2009%"]
    assert [clock(s) for s in (1.234, 75, 7500)] == ["1.23 s", "1 min 15 s", "2 h 05 min"]
