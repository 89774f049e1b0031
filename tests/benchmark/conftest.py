import pytest
from checkout import Checkout


@pytest.fixture
def checkout(tmp_path):
    """A small checkout with the real benchmark/ and scripts/, whose train.py learns nothing."""
    return Checkout(tmp_path / "a checkout")
