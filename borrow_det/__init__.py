"""A single-shot detector whose small objects borrow features from larger ones.

`Detector` applies a trained run to pictures:

    from borrow_det import Detector

    detector = Detector.load("runs/mine")
    found = detector("picture.jpg")
"""

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from borrow_det.inference.detector import Detector

__all__ = ["Detector", "__version__"]

# A checkout that is not installed has no metadata.
_UNINSTALLED = "0+unknown"


def __getattr__(name: str) -> Any:
    """Imports the public names on first use: importing JAX takes seconds."""
    if name == "Detector":
        from borrow_det.inference.detector import Detector

        return Detector
    if name == "__version__":
        try:
            return metadata.version("borrow_det")
        except metadata.PackageNotFoundError:
            return _UNINSTALLED
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
