"""Names that data/ and inspect/ still import from here."""

from trainers.prompting.errors import UserError as BadInput
from trainers.prompting.errors import check_name

from .cli import Parser

__all__ = ["BadInput", "Parser", "check_name"]
