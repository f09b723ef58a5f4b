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
    from verinet.api_lipschitz import Ball as Ball
    from verinet.api_lipschitz import lipschitz as lipschitz
    from verinet.api_lipschitz import radius as radius
    from verinet.errors import VerinetError as VerinetError
    from verinet.frontends.derivative import Derivative as Derivative
    from verinet.frontends.derivative import jacobian as jacobian
    from verinet.ops.activations.user import register_activation as register_activation
    from verinet.results import Bounds as Bounds
    from verinet.results import LipschitzBound as LipschitzBound
    from verinet.results import Reason as Reason
    from verinet.results import Status as Status
    from verinet.results import Verdict as Verdict
    from verinet.results import Witness as Witness
    from verinet.spec import read_property as read_property
    from verinet.spec.build import robustness as robustness
    from verinet.spec.regions import box as box
    from verinet.spec.regions import linf_ball as linf_ball

_WHERE = {
    "load": "verinet.api",
    "verify": "verinet.api",
    "bounds": "verinet.api",
    "lipschitz": "verinet.api_lipschitz",
    "radius": "verinet.api_lipschitz",
    "Ball": "verinet.api_lipschitz",
    "jacobian": "verinet.frontends.derivative",
    "Derivative": "verinet.frontends.derivative",
    "VerinetError": "verinet.errors",
    "Bounds": "verinet.results",
    "LipschitzBound": "verinet.results",
    "Reason": "verinet.results",
    "Status": "verinet.results",
    "Verdict": "verinet.results",
    "Witness": "verinet.results",
    "register_activation": "verinet.ops.activations.user",
    "read_property": "verinet.spec",
    "robustness": "verinet.spec.build",
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
