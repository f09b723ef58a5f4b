"""What README and docs show has to work, and their links have to lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "models" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
COMMANDS = re.findall(r"^\$ \.venv/bin/verinet (.*)\n((?:unsat|sat)?)", README, flags=re.MULTILINE)


@pytest.mark.parametrize(("line", "answer"), COMMANDS)
def test_commands_of_the_readme(command, line, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = command(*shlex.split(line.replace("found.txt", str(tmp_path / "found.txt"))))
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(answer)


def test_python_of_the_readme(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})
    assert "[" in capsys.readouterr().out  # the witness was printed


def test_the_readme_begins_with_who_we_are_not():
    assert "VeriNet" in "".join(README.splitlines()[1:4]) and "Imperial College" in README[:200]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
