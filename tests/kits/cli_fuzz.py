"""Command lines with damaged files and odd options: what the documentation says about exit codes has to hold."""

from __future__ import annotations

import json
import os
import time
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from tests.kits.damaged import NETWORKS, VERSION_1, VERSION_2, damaged_network, damaged_property, draw
from verinet.cli.app import app
from verinet.cli.session import Session

WORDS = ("unsat", "sat", "unknown", "timed-out")
SECONDS = "1.5"
ODD_VALUES = ("", "-1", "0", "nan", "inf", "1e400", "abc", "1e-9", "0.3", "99999999999999999999", "\u00e9", "-", "=")
OPTIONS = {
    "verify": "--timeout --device --result --seed --network --serialise-assignments --json -v -q --nonsense".split(),
    "bounds": "--layer --device --json -v --nonsense".split(),
    "lipschitz": "--norm --spec --box --center --radius --output --method --solver --time --seed --json".split(),
    "inspect": "--json -v".split(),
    "convert": "--to --network".split(),
    "jacobian": "--inputs --outputs --values".split(),
    "supports": "--onnx-operators --vnnlib-versions --nonsense".split(),
    "report": "--html --csv --parquet".split(),
}
FLAGS = frozenset("--json -v -q --values --nonsense --onnx-operators --vnnlib-versions".split())
WEIGHTS = (
    ("verify",) * 8 + ("bounds",) * 2 + ("lipschitz", "inspect", "inspect", "convert", "jacobian", "supports", "report")
)


@dataclass(frozen=True)
class Attempt:
    """A command line in a folder of its own, and what was done to its files."""

    arguments: tuple[str, ...]
    what: str
    folder: Path

    @property
    def command(self) -> str:
        return self.arguments[0]


def attempt(folder: Path, seed: int) -> Attempt:
    """The command line of a seed; writes its files."""
    random = np.random.default_rng(seed)
    command = draw(random, WEIGHTS)
    kind = draw(random, ("network", "property", "options", "both", "files"))
    made = damaged_network(random) if kind in ("network", "both") else draw(random, NETWORKS)().SerializeToString()
    text = damaged_property(random) if kind in ("property", "both") else draw(random, (VERSION_1, VERSION_2)).encode()
    network, prop = folder / draw(random, ("net.onnx", "net.onnx.gz", "net")), folder / draw(random, ("p.vnnlib", "p"))
    network.write_bytes(made)
    prop.write_bytes(text)
    files = _files(command, str(network), str(prop), folder)
    if kind == "files":
        files = _odd_files(files, folder, random)
    options = _limits(command)
    if kind == "options" or random.random() < 0.2:
        options += _odd_options(command, folder, random)
    return Attempt((command, *files, *options), kind, folder)


def _files(command: str, network: str, prop: str, folder: Path) -> list[str]:
    return {
        "verify": [network, prop],
        "bounds": [network, prop],
        "lipschitz": [network],
        "inspect": [network],
        "convert": [prop, str(folder / "out.vnnlib")],
        "jacobian": [network, "--out", str(folder / "out.onnx")],
        "supports": ["--vnnlib-versions"],
        "report": [str(folder)],
    }[command]


def _limits(command: str) -> list[str]:
    return {
        "verify": ["--timeout", SECONDS, "--device", "cpu", "--processes", "1"],
        "lipschitz": ["--time", "0.3"],
    }.get(command, [])


def _odd_files(files: list[str], folder: Path, random: np.random.Generator) -> list[str]:
    """A file that is missing, a folder, closed to us, a circle of links, empty, given twice, in the wrong place."""
    at, how = int(random.integers(len(files))), int(random.integers(9))
    path = Path(files[at])
    if how == 0 and path.is_file():
        path.unlink()
    elif how == 1:
        files[at] = str(folder)
    elif how == 2 and path.is_file():
        path.chmod(0)
    elif how == 3 and path.is_file():
        path.unlink()
        path.symlink_to(path)
    elif how == 4 and path.is_file():
        path.write_bytes(b"")
    elif how == 5:
        files.insert(at, files[-1])
    elif how == 6:
        files = files[::-1]
    elif how == 7:
        del files[at]
    else:
        files[at] = draw(random, ("/dev/null", "", "-", "x" * 300, "a\nb", "/proc/self/mem", "[('f', 1)]", "[[[["))
    return files


def _odd_options(command: str, folder: Path, random: np.random.Generator) -> list[str]:
    """One or two options with values that may make no sense."""
    found: list[str] = []
    for _ in range(int(random.integers(1, 3))):
        option = draw(random, OPTIONS[command])
        found.append(option)
        if option not in FLAGS:
            found.append(draw(random, (*ODD_VALUES, *_paths(folder), "2", "inf", "1", "cpu", "product", "f=net.onnx")))
    return found


def _paths(folder: Path) -> tuple[str, ...]:
    closed = folder / "closed"
    closed.mkdir(mode=0o500, exist_ok=True)
    return (
        str(folder),
        str(folder / "new.txt"),
        str(folder / "none" / "new.txt"),
        str(closed / "new.txt"),
        "/dev/full",
    )


def violations(tried: Attempt) -> tuple[int, list[str]]:
    """Runs a command line in this process: its exit code, and what is wrong with how it ended."""
    with chdir(tried.folder):  # names such as "nan" are files too
        done = CliRunner().invoke(app, list(tried.arguments), obj=Session(time.monotonic(), owns_process=False))
    bad: list[str] = []
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        bad.append(f"an exception escapes: {done.exception!r}")
    if done.exit_code not in (0, 1, 2, 3):
        bad.append(f"exit code {done.exit_code}")
    for words in ("Traceback", "failed in a way it should not"):
        if words in done.stderr and not ("-v" in tried.arguments and words == "Traceback"):
            bad.append(f"stderr: {done.stderr.strip()[-400:]}")
    if done.exit_code in (2, 3) and not done.stderr.strip():
        bad.append("no message for the error")
    if done.exit_code == 1 and "result file" not in done.stderr:
        bad.append(f"exit code 1: {done.stderr.strip()[-300:]}")
    if tried.command == "verify":
        bad += _verify_output(tried, done.exit_code, done.stdout)
    return done.exit_code, bad


def _verify_output(tried: Attempt, code: int, stdout: str) -> list[str]:
    """A verdict in the first line exactly when there is one."""
    spoken = code == 0 or (code == 1 and stdout != "")
    if not spoken or "--help" in tried.arguments:
        return [f"an error, but stdout has {stdout[:80]!r}"] if stdout and code else []
    if "--json" in tried.arguments:
        try:
            word = json.loads(stdout)["verdict"]
        except (ValueError, KeyError):
            return [f"stdout is not the documented object: {stdout[:80]!r}"]
    else:
        word = stdout.splitlines()[0] if stdout else ""
    return [] if word in WORDS else [f"the first line is {word!r}"]


def opened(folder: Path) -> None:
    """Give back the rights that were taken, so that the folder can be removed."""
    for path in folder.rglob("*"):
        if not path.is_symlink():
            os.chmod(path, 0o700)
