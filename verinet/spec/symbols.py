"""Declared variables: VNN-LIB 1.0 names X_i and Y_j one by one, VNN-LIB 2.0 declares tensors of networks."""

from __future__ import annotations

import re

from verinet.spec.property import Network2, Variable2

_NAME1 = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})", re.ASCII)
_NAME2 = re.compile(r"([A-Za-z_][\w.@$'-]*)(?:\s*\[([\s\d,]*)\])?", re.ASCII)

_INDEX = re.compile(r"\s*[0-9]{1,12}\s*")


class UnknownVariableError(LookupError):
    """A name that is no declared variable. Carries the fact and a hint for the user."""

    def __init__(self, fact: str, hint: str = "") -> None:
        super().__init__(fact)
        self.fact, self.hint = fact, hint


class Symbols1:
    """The X_i and Y_j of VNN-LIB 1.0, in any order of declaration."""

    def __init__(self) -> None:
        self.declared: set[int] = set()

    def declare(self, kind: str, index: int) -> bool:
        """False when the variable was declared before."""
        key = 2 * index + (kind == "Y")
        if key in self.declared:
            return False
        self.declared.add(key)
        return True

    @staticmethod
    def parse(name: str) -> tuple[str, int] | None:
        match = _NAME1.fullmatch(name)
        return (match[1], int(match[2])) if match else None

    def resolve(self, name: str) -> int:
        parts = self.parse(name)
        if parts is None:
            raise UnknownVariableError(
                f"expected a number or a variable X_i or Y_j, but found '{name[:60]}'",
                "VNN-LIB 1.0 knows only X_i, Y_j",
            )
        kind, index = parts
        key = 2 * index + (kind == "Y")
        if key not in self.declared:
            count = sum(1 for other in self.declared if other & 1 == key & 1)
            known = f"{kind}_0 .. {kind}_{count - 1}" if count else f"no {kind}"
            raise UnknownVariableError(f"unknown variable {name}: the file declares {known} up to here")
        return key

    def name_of(self, code: int) -> str:
        """What the file calls a code."""
        return f"{'XY'[code & 1]}_{code >> 1}"

    def sizes(self) -> tuple[int, int]:
        """Raises UnknownVariableError when an index is left out."""
        counts = []
        for kind in (0, 1):
            indices = {key >> 1 for key in self.declared if key & 1 == kind}
            missing = next((i for i in range(len(indices)) if i not in indices), None)
            if missing is not None:
                raise UnknownVariableError(
                    f"{'XY'[kind]}_{missing} is not declared, but {'XY'[kind]}_{max(indices)} is",
                    "indices count from 0",
                )
            counts.append(len(indices))
        return counts[0], counts[1]


class Symbols2:
    """The tensors of the networks of a VNN-LIB 2.0 file, flattened in C order, one after the other.

    Hidden and output entries are numbered together, in order of declaration.
    """

    def __init__(self) -> None:
        self.networks: dict[str, Network2] = {}
        self._offsets: dict[str, tuple[int, Variable2]] = {}
        self._sizes = [0, 0]

    def declare(self, network: Network2) -> None:
        """Add a network with new names."""
        self.networks[network.name] = network
        for variable in network.variables:
            side = 0 if variable.is_input else 1
            self._offsets[variable.name] = (self._sizes[side], variable)
            self._sizes[side] += variable.size

    def resolve(self, name: str) -> int:
        offset, variable, index = self._find(name)
        return 2 * (offset + _flat_index(name, index, variable)) + (not variable.is_input)

    def dtype(self, name: str) -> str:
        """The element type of a variable. Raises UnknownVariableError."""
        return self._find(name)[1].dtype

    def dtypes(self) -> set[str]:
        """The element types of all variables."""
        return {variable.dtype for _, variable in self._offsets.values()}

    def _find(self, name: str) -> tuple[int, Variable2, str | None]:
        match = _NAME2.fullmatch(name)
        if match is None or match[1] not in self._offsets:
            known = ", ".join(self._offsets)
            raise UnknownVariableError(
                f"expected a number or a variable, but found '{name[:60]}'", f"declared: {known[:300]}"
            )
        return *self._offsets[match[1]], match[2]

    def sizes(self) -> tuple[int, int]:
        return self._sizes[0], self._sizes[1]

    def name_of(self, code: int) -> str:
        """What the file calls a code."""
        flat = code >> 1
        for name, (offset, variable) in self._offsets.items():
            if variable.is_input == (code % 2 == 0) and offset <= flat < offset + variable.size:
                return name + written_index(variable, flat - offset)
        return "?"


def written_index(variable: Variable2, flat: int) -> str:
    """The index of an entry as a file writes it; empty for a scalar."""
    parts: list[str] = []
    for size in reversed(variable.shape):
        flat, part = divmod(flat, size)
        parts.append(str(part))
    return f"[{','.join(reversed(parts))}]" if parts else ""


def _flat_index(name: str, text: str | None, variable: Variable2) -> int:
    parts = [] if text is None else text.split(",")
    if len(parts) != len(variable.shape) or not all(_INDEX.fullmatch(part) for part in parts):
        wanted = f"{len(variable.shape)} indices" if variable.shape else "no index"
        raise UnknownVariableError(
            f"'{name[:60]}' needs {wanted}: {variable.name} is declared with shape {list(variable.shape)}"
        )
    flat = 0
    for part, size in zip(parts, variable.shape, strict=True):
        if int(part) >= size:
            raise UnknownVariableError(
                f"'{name[:60]}' is out of range: {variable.name} is declared with shape {list(variable.shape)}"
            )
        flat = flat * size + int(part)
    return flat
