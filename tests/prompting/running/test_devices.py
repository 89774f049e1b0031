"""Devices by name."""

import pytest
import torch

from trainers.prompting import UserError
from trainers.prompting.running.devices import usable_device, usual_device


@pytest.fixture
def devices(monkeypatch):
    """Lets PyTorch find these numbers of devices of each kind."""

    def find(**counts):
        for kind in ("cuda", "mps", "xpu"):
            count = counts.get(kind, 0)
            monkeypatch.setattr(getattr(torch, kind), "device_count", lambda count=count: count)

    return find


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "cpu:3", "meta", "cuda:"])
def test_a_device_that_pytorch_cannot_use(devices, name):
    devices()
    with pytest.raises(UserError) as error:
        usable_device(name)
    assert str(error.value) == f"PyTorch cannot use the device '{name}' here: give cpu"


def test_devices_that_are_here(devices):
    devices(cuda=2, mps=1)
    for name in ("cpu", "cuda", "cuda:1", "mps", "mps:0"):
        assert str(usable_device(name)) == name
    with pytest.raises(UserError, match="'cuda:2' here: give cpu or cuda or cuda:0 or cuda:1 or m"):
        usable_device("cuda:2")


def test_the_usual_device_is_a_gpu_of_cuda_or_the_cpu(devices):
    devices(cuda=1)
    assert usual_device() == "cuda"
    devices(mps=1)
    assert usual_device() == "cpu"
