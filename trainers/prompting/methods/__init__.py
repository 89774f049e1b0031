"""The methods, one file each: settings, what is learned, the equation and the loss.

`find_method` imports the file of a method, `import_methods` all of them.
"""

from ..method import METHODS, import_methods


def list_methods() -> list[str]:
    """Return the names that `build_method` takes, including those of loaded plug-ins.

    Examples:
        >>> "ALIGN" in list_methods()
        True
    """
    import_methods()
    return sorted(METHODS)
