"""Dassl's modules: those of the installed Dassl, or the few that come with the package."""

import importlib
from typing import Any


def dassl(name: str) -> Any:
    """Return the module `dassl.NAME`: `config`, `data.transforms` or `utils`.

    A wheel of this package has these three of `dassl-lite`: loading a run needs no others.

    Raises:
        ModuleNotFoundError: Dassl is not installed, and this folder was copied, not installed.
    """
    try:
        importlib.import_module("dassl")
    except ModuleNotFoundError as missing:
        own = f"{__package__}.dassl_lite"
        try:
            return importlib.import_module(f"{own}.{name}")
        except ModuleNotFoundError as error:
            raise (missing if error.name == own else error) from None
    return importlib.import_module(f"dassl.{name}")
