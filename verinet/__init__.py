"""verinet: proves what a trained neural network can and cannot do.

Public names are imported on first use, so that `import verinet` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verinet.api import bounds as bounds
    from verinet.api import load as load
    from verinet.api import verify as verify
    from verinet.errors import VerinetError as VerinetError
    from verinet.results import Bounds as Bounds
    from verinet.results import Reason as Reason
    from verinet.results import Status as Status
    from verinet.results import Verdict as Verdict
    from verinet.results import Witness as Witness
    from verinet.spec import read_property as read_property
    from verinet.spec.regions import box as box
    from verinet.spec.regions import linf_ball as linf_ball

_WHERE = {
    "load": "verinet.api",
    "verify": "verinet.api",
    "bounds": "verinet.api",
    "VerinetError": "verinet.errors",
    "Bounds": "verinet.results",
    "Reason": "verinet.results",
    "Status": "verinet.results",
    "Verdict": "verinet.results",
    "Witness": "verinet.results",
    "read_property": "verinet.spec",
    "box": "verinet.spec.regions",
    "linf_ball": "verinet.spec.regions",
}

__all__ = sorted(_WHERE)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'verinet' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
