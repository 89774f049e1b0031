"""One file a method: its cfg node, its point in the space, and its loss where it has one.

Importing this package imports, and so registers, every file in it.
"""

import importlib
import pkgutil

from ..method import METHODS

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")


def list_methods() -> list[str]:
    """The names that `build_method` takes, those of plug-ins that are loaded among them.

    Examples:
        >>> "ALIGN" in list_methods()
        True
    """
    return sorted(METHODS)
