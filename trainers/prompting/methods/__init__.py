"""One file a method: its cfg node, its point in the space, and its loss where it has one.

Importing this package imports, and so registers, every file in it.
"""

import importlib
import pkgutil

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
