"""Devices by name."""

import pytest
import torch

from trainers.prompting import UserError
from trainers.prompting.running import devices as named
from trainers.prompting.running.devices import idle_gpus, usable_device


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
    assert usable_device(None) == torch.device("cuda")
    devices(mps=1)
    assert usable_device(None) == torch.device("cpu")


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A driver that knows one GPU, which PyTorch cannot use."""
    (tmp_path / "0000:01").mkdir()
    (tmp_path / "0000:01" / "information").write_text("Model: \t NVIDIA H100\nIRQ: 16\n")
    monkeypatch.setattr(named, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("built", "why"), [(None, "built for CPUs only"), ("12.4", "built for CUDA 12.4, which its")]
)
def test_a_gpu_that_pytorch_cannot_use_is_named(driver, monkeypatch, built, why):
    monkeypatch.setattr(torch.version, "cuda", built)
    said = idle_gpus()
    assert said.startswith(f"NVIDIA H100: PyTorch {torch.__version__} is {why}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert idle_gpus() == ""  # it is hidden on purpose


def test_no_gpu_is_idle_where_there_is_none_or_pytorch_uses_it(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert idle_gpus() == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(named, "DRIVER", tmp_path / "none")
    assert idle_gpus() == ""
