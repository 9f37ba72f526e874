"""One module a page; importing it registers it."""

from importlib import import_module
from pkgutil import iter_modules


def load() -> None:
    """Register every page."""
    for module in iter_modules(__path__, prefix=f"{__name__}."):
        import_module(module.name)
