"""Lines per package, the longest files and functions. Fails on files above 400 lines and functions above 60."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

FILE_LIMIT, FUNCTION_LIMIT = 400, 60
ROOT = Path(__file__).resolve().parents[1]


def functions(path: Path) -> list[tuple[int, str]]:
    """(lines, name) of every function of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    where = path.relative_to(ROOT)
    return [((node.end_lineno or node.lineno) - node.lineno + 1, f"{where}:{node.name}") for node in found]


def main() -> int:
    files = {p: len(p.read_text().splitlines()) for top in ("verinet", "solvers") for p in (ROOT / top).rglob("*.py")}
    packages: dict[str, int] = {}
    for path, lines in files.items():
        package = "/".join(path.relative_to(ROOT).parts[:2]) if len(path.relative_to(ROOT).parts) > 2 else "top"
        packages[package] = packages.get(package, 0) + lines
    for package, lines in sorted(packages.items()):
        print(f"{lines:7} {package}")
    print(f"{sum(files.values()):7} lines in {len(files)} files")
    longest = sorted((entry for path in files for entry in functions(path)), reverse=True)
    print("longest functions:", ", ".join(f"{name} {lines}" for lines, name in longest[:3]))
    too_long = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in files.items() if n > FILE_LIMIT]
    too_long += [f"{name}: {lines} lines" for lines, name in longest if lines > FUNCTION_LIMIT]
    for line in too_long:
        print(f"too long: {line}")
    return 1 if too_long else 0


if __name__ == "__main__":
    sys.exit(main())
