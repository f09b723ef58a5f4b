"""Damaged files and odd options on the command line; `python -m benchmarks.fuzz_cli` does the same for longer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer

import verinet
import verinet.api
from tests.kits.cli_fuzz import Attempt, attempt, opened, violations
from tests.kits.damaged import VERSION_1, dense
from verinet.errors import UsageError
from verinet.results import Reason, Status, Verdict

TRIED = 140


def test_every_call_ends_as_documented(tmp_path: Path) -> None:
    codes: Counter[int] = Counter()
    for seed in range(TRIED):
        folder = tmp_path / str(seed)
        folder.mkdir()
        tried = attempt(folder, seed)
        code, bad = violations(tried)
        opened(folder)
        assert bad == [], (seed, tried)
        codes[code] += 1
    assert all(codes[code] >= 5 for code in (0, 2, 3)) and codes[1] <= 5, codes


@pytest.fixture
def plain(tmp_path: Path) -> Attempt:
    """A call with nothing wrong in it."""
    network, prop = tmp_path / "net.onnx", tmp_path / "p.vnnlib"
    network.write_bytes(dense().SerializeToString())
    prop.write_text(VERSION_1)
    return Attempt(("verify", str(network), str(prop), "--timeout", "5", "--processes", "1"), "nothing", tmp_path)


def test_what_is_wrong_would_be_noticed(plain: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure inside, an exit code that nothing documents, and words on stdout where there is no verdict."""
    assert violations(plain) == (0, [])

    def failing(*_: Any, **__: Any) -> Verdict:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(verinet.api, "verify", failing)
    code, bad = violations(plain)
    assert code == 1 and any("should not" in line for line in bad)
    monkeypatch.setattr(verinet.api, "verify", lambda *_, **__: Verdict(Status.UNKNOWN, Reason.INTERRUPTED))
    assert "exit code 130" in violations(plain)[1]

    def talking(*_: Any, **__: Any) -> Verdict:
        typer.echo("a debugging line")
        return Verdict(Status.UNSAT, Reason.PROVED)

    monkeypatch.setattr(verinet.api, "verify", talking)
    assert violations(plain)[1] == ["the first line is 'a debugging line'"]


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999"])
def test_seeds_out_of_range_are_wrong_calls(plain: Attempt, seed: str) -> None:
    assert violations(Attempt((*plain.arguments, "--seed", seed), "seed", plain.folder)) == (2, [])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_python_calls_with_such_seeds_are_refused_by_name(plain: Attempt, seed: int) -> None:
    with pytest.raises(UsageError, match="the seed must be"):
        verinet.api.verify(plain.arguments[1], plain.arguments[2], seed=seed)
    with pytest.raises(UsageError, match="the seed must be"):
        verinet.lipschitz(plain.arguments[1], seed=seed)


@pytest.mark.parametrize("command", ["verify", "inspect", "bounds", "report"])
def test_names_that_no_file_can_have_are_wrong_calls(plain: Attempt, command: str) -> None:
    files = {"inspect": 1, "report": 1}.get(command, 2)
    assert violations(Attempt((command, *["x" * 300] * files), "name", plain.folder)) == (2, [])


def test_a_damaged_archive_without_a_suffix_is_a_wrong_call(plain: Attempt, tmp_path: Path) -> None:
    """It has to be unpacked to see what it is: the bytes after the head are no stream."""
    damaged = tmp_path / "net"
    damaged.write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + bytes(range(255, 0, -1)) * 20)
    assert violations(Attempt(("verify", str(damaged), *plain.arguments[2:]), "archive", tmp_path)) == (2, [])


@pytest.mark.parametrize("command", ["verify", "inspect", "jacobian"])
def test_a_damaged_extent_does_not_take_the_memory(plain: Attempt, tmp_path: Path, command: str) -> None:
    made = dense()
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40
    network = tmp_path / "net.onnx"
    network.write_bytes(made.SerializeToString())
    others = {"verify": plain.arguments[2:], "inspect": (), "jacobian": ("--out", str(tmp_path / "out.onnx"))}
    assert violations(Attempt((command, str(network), *others[command]), "extent", tmp_path)) == (3, [])
