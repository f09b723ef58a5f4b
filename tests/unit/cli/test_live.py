"""What progress looks like, and where it does not appear."""

from __future__ import annotations

import sys

from verinet.cli.live import Display, describe
from verinet.results import Progress

STEP = Progress(12.5, "branching", 3, 40, -0.25, 0.25, 128.0)


def test_one_line_tells_all():
    line = describe(STEP)
    for part in ("12.5 s", "branching", "open 3, closed 40", "bound -0.25", "gap 0.25", "128/s"):
        assert part in line


def test_nothing_is_shown_without_a_terminal(capsys):
    display = Display()
    display(STEP)
    display.clear()
    assert capsys.readouterr().err == "" and display.latest is STEP


def test_a_terminal_gets_one_line_that_goes_away(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    display = Display()
    display(STEP)
    display.clear()
    text = capsys.readouterr().err
    assert "open 3" in text and text.endswith("\r\x1b[2K") and "\n" not in text
