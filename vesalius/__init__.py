"""Vesalius segments medical images with U-Nets and with foundation models, behind one interface.

    >>> import vesalius
    >>> vesalius.__all__
    ['Session', 'evaluate', 'load', 'read', 'segment', 'shoot_out', 'train', 'write']

The names are imported when first used (PEP 562), so `import vesalius` costs nothing and loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .io.files import read, write
    from .pipeline.evaluate import evaluate
    from .pipeline.predictor import load
    from .pipeline.segment import segment
    from .pipeline.session import Session
    from .training.loop import train
    from .training.shootout import shoot_out

__all__ = ["Session", "evaluate", "load", "read", "segment", "shoot_out", "train", "write"]

_HOMES = {
    "Session": "vesalius.pipeline.session",
    "evaluate": "vesalius.pipeline.evaluate",
    "load": "vesalius.pipeline.predictor",
    "read": "vesalius.io.files",
    "segment": "vesalius.pipeline.segment",
    "shoot_out": "vesalius.training.shootout",
    "train": "vesalius.training.loop",
    "write": "vesalius.io.files",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the room it lives in, once."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("vesalius")
    if name not in _HOMES:
        raise AttributeError(f"module 'vesalius' has no attribute '{name}'")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
