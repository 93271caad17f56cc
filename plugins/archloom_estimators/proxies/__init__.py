"""Zero-cost proxies: a number of a network that was never trained, from one batch, by which networks are ranked.

How those that score single weights or channels become a number of a whole network: Abdelfattah et al., "Zero-Cost
Proxies for Lightweight NAS" (ICLR 2021, arXiv 2101.08134), section 3.2. Each module names its own source beside it.
Of each proxy more is better.
"""

from .activations import NASWOT
from .gradients import SNIP, Fisher, GradientNorm, GraSP
from .jacobian import JacobianCovariance
from .synflow import SynFlow
from .zen import ZenNAS

PROXIES = {
    "grad_norm": GradientNorm,
    "snip": SNIP,
    "grasp": GraSP,
    "synflow": SynFlow,
    "fisher": Fisher,
    "naswot": NASWOT,
    "jacob_cov": JacobianCovariance,
    "zen": ZenNAS,
}
"""Registered name -> factory."""

__all__ = [
    "NASWOT",
    "PROXIES",
    "SNIP",
    "Fisher",
    "GraSP",
    "GradientNorm",
    "JacobianCovariance",
    "SynFlow",
    "ZenNAS",
]
