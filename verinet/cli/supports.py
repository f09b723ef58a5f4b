"""`verinet supports`: what verinet can do, in the words of the VNN-LIB 2.0 standard, chapter 5.

One identifier a line; a star and a remark behind it mean that the support is not what the word alone would promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from verinet.cli.session import emit
from verinet.errors import UsageError

# Operators that need no bounds: they are constants once the input sizes are fixed.
_FOLDED = ("Constant", "ConstantOfShape", "NonZero", "Range", "Shape", "Size")
_REAL = "unsat is proved over the real numbers, rounding of the network's own arithmetic not included; sat is replayed"


def run_supports(capabilities: Sequence[str]) -> None:
    """Print the answer to each capability asked for, `--hidden-node-theories` for instance.

    Raises:
        UsageError: an unknown capability, or none.
    """
    known = ", ".join(_ANSWERS)
    if not capabilities:
        raise UsageError("which capability?", hint=f"one of {known}")
    for capability in capabilities:
        answer = _ANSWERS.get(_ALIASES.get(capability, capability))
        if answer is None:
            raise UsageError(f"the capability '{capability}' is not known", hint=f"one of {known}")
        for line in answer():
            emit(line)


def _operators() -> list[str]:
    from verinet.frontends.handlers import HANDLERS
    from verinet.ops.activations.registry import table

    return sorted({*HANDLERS, *table(), *_FOLDED})


def _opsets() -> list[str]:
    from verinet.frontends.outline import OPSETS

    return [str(OPSETS.start), str(OPSETS.stop - 1)]


def _words(*lines: str) -> Callable[[], list[str]]:
    return lambda: list(lines)


_ANSWERS: Mapping[str, Callable[[], list[str]]] = {
    "--onnx-opset-versions": _opsets,
    "--onnx-element-types": _words("real", f"float32 * {_REAL}", f"float64 * {_REAL}"),
    "--onnx-operators": _operators,
    "--vnnlib-versions": _words("1.0", "2.0"),
    "--hidden-node-theories": _words("NH", "H"),
    "--multiple-input-output-theories": _words("SIO", "MIO"),
    "--multiple-network-theories": _words("SNET", "MENET", "MINET", "MNET"),
    "--multiple-node-comparison-theories": _words("SNC", "MNC"),
    "--arithmetic-complexity-theories": _words("BND", "OUTC", "LIN", "POLY"),
    "--optimised-disjunctive-reasoning": _words("true"),
    "--serialise-assignments": _words("true"),
}
# Spellings that drafts of the standard, and its usage line, use for the same.
_ALIASES: Mapping[str, str] = {
    "--multiple-inputs-outputs-theories": "--multiple-input-output-theories",
    "--multiple-input-outputs-theories": "--multiple-input-output-theories",
    "--multiple-input-outputs": "--multiple-input-output-theories",
    "--multiple-inputs-outputs": "--multiple-input-output-theories",
    "--multiple-networks": "--multiple-network-theories",
    "--hidden-nodes": "--hidden-node-theories",
    "--multiple-node-comparisons": "--multiple-node-comparison-theories",
    "--arithmetic-complexity": "--arithmetic-complexity-theories",
    "--assignments": "--serialise-assignments",
}
