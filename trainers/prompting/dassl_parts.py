"""Dassl's files: those of the installed Dassl, or those that come with the package."""

import importlib
from typing import Any


def dassl_utils() -> Any:
    """Return the module `dassl.utils`, for logs and for checkpoints of public code or broken ones.

    A wheel of this package has that of `dassl-lite`.

    Raises:
        ModuleNotFoundError: Dassl is not installed, and this folder was copied, not installed.
    """
    try:
        importlib.import_module("dassl")
    except ModuleNotFoundError as missing:
        own = f"{__package__}.dassl_lite"
        try:
            return importlib.import_module(f"{own}.utils")
        except ModuleNotFoundError as error:
            raise (missing if error.name == own else error) from None
    return importlib.import_module("dassl.utils")
