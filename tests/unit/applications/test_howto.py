"""The how-to pages show what the commands print."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from verinet.cli.app import app
from verinet.cli.session import Session

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted((ROOT / "docs").glob("howto_*.md"))
ROWS = list(csv.DictReader((ROOT / "vnnlib_specs" / "expected.csv").open()))
EXPECTED = {(Path(row["onnx"]).name, row["vnnlib"]): row["verdict"] for row in ROWS}
SHOWN = [
    (page.name, shlex.split(line), text)
    for page in PAGES
    for line, text in re.findall(r"^\$ \.venv/bin/verinet (.*)\n((?:[^$`].*\n)*)", page.read_text(), flags=re.MULTILINE)
]


def shown(command: str) -> list[tuple[str, list[str], str]]:
    return [case for case in SHOWN if case[1][0] == command]


def label(case: tuple[str, list[str], str]) -> str:
    return " ".join(Path(word).name for word in case[1][1:3])


def run(line: list[str]) -> tuple[str, str]:
    done = CliRunner().invoke(app, line, obj=Session(0.0, owns_process=False))
    assert done.exit_code == 0, done.stderr
    return done.stdout, done.stderr


def test_every_page_shows_commands_and_both_answers():
    assert [page.stem for page in PAGES] == ["howto_jacobian", "howto_lyapunov", "howto_opf", "howto_quantised"]
    for page in PAGES:
        answers = {text.split()[0] for name, line, text in shown("verify") if name == page.name}
        assert answers == {"sat", "unsat"}


@pytest.mark.parametrize("case", shown("verify"), ids=label)
def test_verdicts_are_those_of_the_table(case):
    """`tests/acceptance` runs the instances of the table."""
    _, (_, model, spec), text = case
    assert text.split("\n")[0] == EXPECTED[Path(model).name, Path(spec).name]


@pytest.mark.parametrize("case", shown("jacobian"), ids=label)
def test_derivatives_are_written_as_shown(case, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    line = [
        str(tmp_path / word) if word.endswith(".onnx") and not word.startswith("models/") else word for word in case[1]
    ]
    assert "".join(run(line)) == case[2]


@pytest.mark.parametrize("case", shown("bounds"), ids=label)
def test_bounds_are_as_shown(case, monkeypatch):
    """Up to rounding, which depends on the processor."""
    monkeypatch.chdir(ROOT)
    found = [[float(word) for word in row.split()] for row in run(case[1])[0].splitlines()]
    for row in case[2].splitlines():
        position, low, high = (float(word) for word in row.split())
        assert found[int(position)][1:] == pytest.approx([low, high], abs=1e-3)


def test_inspect_is_as_shown(monkeypatch):
    monkeypatch.chdir(ROOT)
    (case,) = shown("inspect")
    printed = re.sub(r"[ │]+", " ", run(case[1])[0])
    for row in case[2].splitlines():
        assert re.sub(r"[ │]+", " ", row).strip() in printed


def test_python_of_the_pages(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    blocks = [b for page in PAGES for b in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)]
    assert len(blocks) == 1
    exec(compile(blocks[0], "howto_jacobian.md", "exec"), {})
    assert capsys.readouterr().out == "Status.UNSAT\n"


def test_every_operator_with_a_rule_is_listed():
    from verinet.frontends import derivative
    from verinet.frontends.derivative_tape import RULES

    assert derivative.jacobian is not None  # its import fills the table
    text = re.sub(r"\s+", " ", (ROOT / "docs" / "howto_jacobian.md").read_text())
    listed = re.search(r"\*\*Operators\*\*: (.*?) Others are", text).group(1)
    named = set(re.findall(r"[A-Z]\w+", listed))
    assert named == set(RULES) - {"Cast"}
