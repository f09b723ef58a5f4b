"""The page in a real browser: no errors, tables that sort and filter, plots with every point, two colour schemes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.report.browser import Browser, chromium, pixels
from tests.unit.report.conftest import RECORDS, record
from verinet.report.data import load_run
from verinet.report.page import page

pytestmark = [
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium"),
    pytest.mark.timeout(180),
]

UNSAT = {False: (0x12, 0x87, 0x7D), True: (0x3C, 0xBC, 0xAF)}
PAPER = {False: (0xFB, 0xFA, 0xF7), True: (0x14, 0x16, 0x1A)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests."""
    one = Browser()
    yield one
    one.close()


@pytest.fixture
def opened(browser, run, other, tmp_path) -> Browser:
    """The browser with the report of the run against the other one."""
    path = tmp_path / "report.html"
    path.write_text(page(load_run(run), [load_run(other)]))
    browser.errors.clear()
    browser.open(path)
    return browser


def column(browser: Browser, table: str, index: int) -> list[str]:
    script = f"[...document.querySelector('{table}').tBodies[0].rows].map(r => r.cells[{index}].textContent.trim())"
    found: list[str] = browser.run(script)
    return found


def test_nothing_goes_wrong(opened):
    opened.run("document.querySelectorAll('th').forEach(head => head.click())")
    opened.run("document.querySelector('circle').dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))")
    assert opened.run("document.getElementById('tip').hidden") is False
    assert opened.errors == []


def test_plots_have_as_many_points_as_the_data(opened):
    solved = sum(r["status"] in ("sat", "unsat") and r["seconds"] <= r["timeout"] for r in RECORDS)
    assert opened.run("document.querySelectorAll('.cactus .s0 circle').length") == solved
    assert opened.run("document.querySelectorAll('.scatter .pairs circle').length") == len(RECORDS) - 1
    sides = opened.run(
        "(() => { const b = document.querySelector('.cactus').getBoundingClientRect(); return [b.width, b.height]; })()"
    )
    assert sides[0] > 600 and sides[1] > 200


def test_tables_sort_both_ways_by_value(opened):
    opened.run("[...document.querySelectorAll('#all th')].find(t => t.textContent === 'seconds').click()")
    by_time = [str(r["number"]) for r in sorted(RECORDS, key=lambda r: r["seconds"])]
    assert column(opened, "#all", 0) == by_time
    opened.run("[...document.querySelectorAll('#all th')].find(t => t.textContent === 'seconds').click()")
    assert column(opened, "#all", 0) == by_time[::-1]


def test_rows_without_a_value_stay_at_the_end(opened):
    for _ in range(2):
        opened.run("[...document.querySelectorAll('#all th')].find(t => t.textContent === 'gap').click()")
        gaps = column(opened, "#all", 8)
        missing = gaps.count("–")
        assert missing == 4 and gaps[-missing:] == ["–"] * missing


def test_filters_narrow_the_table(opened):
    shown = "[...document.querySelectorAll('#all tbody tr')].filter(r => !r.hidden).map(r => r.id)"
    opened.run("document.querySelector('.chip.sat').click()")
    assert opened.run(shown) == ["i3", "i4", "i9"]
    opened.run(
        "(() => { const i = document.querySelector('input[type=search]'); i.value = 'prop_4 acasxu';"
        " i.dispatchEvent(new Event('input')); })()"
    )
    assert opened.run(shown) == ["i4"]
    assert opened.run("document.querySelector('output').textContent") == "1 of 9"
    opened.run("document.querySelector('.cactus circle').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert len(opened.run(shown)) == 9  # a dot leads to its row, so the filter makes way
    assert opened.run("document.querySelector('tr.lit').id") == "i2"


def test_pictures_are_decoded(opened):
    sizes = opened.run("[...document.images].map(i => [i.complete, i.naturalWidth])")
    assert sizes == [[True, 8]] * 6


def test_nothing_is_wider_than_a_small_screen(opened, run, tmp_path):
    opened.open(tmp_path / "report.html", width=400)
    assert opened.run("document.documentElement.scrollWidth") <= 400


MANY = 10_000


@pytest.fixture(scope="module")
def crowded(browser, tmp_path_factory) -> Browser:
    """The browser with a report of very many instances, and how long the page took to open."""
    folder = tmp_path_factory.mktemp("many")
    words = ("unsat", "timed-out", "unknown")
    lines = [json.dumps(record(n, words[n % 3], 0.01 + n * 7 % MANY / 1000, gap=0.0)) for n in range(1, MANY + 1)]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "run.json").write_text(json.dumps({"timeout": 10.0, "seed": 11, "shard": None}))
    (folder / "report.html").write_text(page(load_run(folder), []))
    browser.errors.clear()
    browser.open(folder / "report.html")
    return browser


SHOWN = "[...document.querySelectorAll('#all tbody tr')].map(r => r.id)"
TYPE = """(text => { const i = document.querySelector('input[type=search]'); i.value = text;
    i.dispatchEvent(new Event('input')); })"""


def test_of_very_many_rows_one_page_is_in_the_document(crowded):
    assert crowded.run(SHOWN) == [f"i{n}" for n in range(1, 201)]
    assert crowded.run("document.querySelector('.pager span').textContent") == "rows 1 to 200"
    crowded.run("document.querySelector('.pager [data-step=\"1\"]').click()")
    assert crowded.run(SHOWN) == [f"i{n}" for n in range(201, 401)]
    crowded.run("document.querySelector('.pager [data-step=\"-1\"]').click()")
    assert crowded.run(SHOWN)[0] == "i1" and crowded.errors == []


def test_very_many_rows_are_sorted_as_a_whole(crowded):
    click = "[...document.querySelectorAll('#all th')].find(t => t.textContent === '{}').click()"
    crowded.run(click.format("seconds"))
    by_time = sorted(range(1, MANY + 1), key=lambda n: n * 7 % MANY)
    assert crowded.run(SHOWN) == [f"i{n}" for n in by_time[:200]]
    crowded.run(click.format("no."))
    assert crowded.run(SHOWN)[:3] == ["i1", "i2", "i3"]


def test_typing_filters_very_many_rows_once_and_quickly(crowded):
    """Every key restarts the wait, so four keys cost one pass; the pass itself must not be felt."""
    crowded.run(
        "(() => { window.passes = 0; new MutationObserver(() => window.passes++)"
        ".observe(document.querySelector('#all tbody'), {childList: true}); })()"
    )
    for text in ("p", "prop_9", "prop_99", "prop_999"):
        crowded.run(f"{TYPE}({text!r})")
    for _ in range(100):
        if crowded.run("window.passes") > 0:
            break
        time.sleep(0.05)
    time.sleep(0.3)
    assert crowded.run("window.passes") <= 2
    assert crowded.run(SHOWN) == ["i999", *(f"i{n}" for n in range(9990, 10_000))]
    assert crowded.run("document.querySelector('output').textContent") == "11 of 10000"
    spent = crowded.run(
        "(() => { const b = performance.now(); document.querySelector('.chip.unsat').click(); "
        "document.body.offsetHeight; return performance.now() - b; })()"
    )
    assert spent < 1000, "milliseconds, on a machine that may be very busy"
    crowded.run("document.querySelector('.chip.unsat').click()")


def test_a_link_leads_to_a_row_of_another_page(crowded):
    crowded.run("document.body.insertAdjacentHTML('beforeend', '<a id=\"jump\" href=\"#i5001\">there</a>')")
    crowded.run("document.getElementById('jump').click()")
    assert crowded.run("document.querySelector('tr.lit').id") == "i5001"
    assert crowded.run("document.querySelector('.pager span').textContent") == "rows 5001 to 5200"
    assert crowded.errors == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_picture_has_the_colours_it_should(opened, tmp_path, dark):
    opened.open(tmp_path / "report.html", dark=dark)
    shot = opened.picture("body", scale=0.5, height=2400)
    folder = os.environ.get("VERINET_SCREENSHOTS")
    if folder:
        (Path(folder) / f"report-{'dark' if dark else 'light'}.png").write_bytes(shot)
    image = pixels(shot).astype(int)
    near = {name: (np.abs(image - colour).max(axis=2) <= 12) for name, colour in _colours(dark).items()}
    assert 0.2 < near["paper"].mean() < 0.97, "the page is blank, or has the wrong background"
    assert near["unsat"].sum() > 300, "the bars are missing"
    text = np.abs(image - np.array(PAPER[dark])).max(axis=2) > 120
    assert 0.003 < text.mean() < 0.4, "there is no text, or far too much of it"
    upper, lower = np.array_split(near["paper"], 2)
    assert not upper.all() and not lower.all()


def _colours(dark: bool) -> dict[str, np.ndarray]:
    return {"paper": np.array(PAPER[dark]), "unsat": np.array(UNSAT[dark])}
