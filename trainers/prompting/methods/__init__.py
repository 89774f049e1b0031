"""The methods, one file each: settings, what is learned, the equation and the loss.

Importing this package imports every file in it, which registers the methods.
"""

import importlib
import pkgutil

from ..method import METHODS

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")


def list_methods() -> list[str]:
    """Return the names that `build_method` takes, including those of loaded plug-ins.

    Examples:
        >>> "ALIGN" in list_methods()
        True
    """
    return sorted(METHODS)
