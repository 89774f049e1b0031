"""A pretend GPU, for tests on machines without one: tensors on `cuda:0` that compute on the CPU.

After `install` PyTorch treats it as a GPU: `.to("cuda")`, autocast's lists for CUDA, GradScaler and
`is_cuda` are the real ones. A tensor there wraps a tensor on the CPU. As on a GPU,

- an operation on tensors of two devices is an error, except for numbers (0 dimensions) on the CPU.

In addition,

- operations for which the host has to wait until the device has finished warn, as on a GPU, if
  `torch.cuda.set_sync_debug_mode("warn")` asks for it (`benchmark.measure.waits`).

The library of `build_guard` has to be loaded before PyTorch is imported, and `install` cannot be
undone: use it in a separate process (program.py).
"""

import subprocess
import warnings
from pathlib import Path

import torch
from torch.optim.optimizer import _foreach_supported_types
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

HERE = Path(__file__).resolve().parent
DEVICE = torch.device("cuda", 0)

# Operations whose result, or its size, the host has to know.
READS = {
    "_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount",
}  # fmt: skip
sync_debug_mode = "default"


def build_guard(folder: Path) -> Path:
    """Compile guard.cpp, without which PyTorch does not know the device.

    Raises:
        OSError: there is no C++ compiler.
        subprocess.CalledProcessError: it does not compile.
    """
    from torch.utils import cpp_extension

    library = folder / "guard.so"
    command = ["g++", "-std=c++20", "-shared", "-fPIC"]
    command.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    command += [f"-I{path}" for path in cpp_extension.include_paths()]
    command += [str(HERE / "guard.cpp"), "-o", str(library)]
    command += [f"-L{cpp_extension.TORCH_LIB_PATH}", f"-Wl,-rpath,{cpp_extension.TORCH_LIB_PATH}"]
    subprocess.run([*command, "-ltorch_cpu", "-lc10"], check=True, capture_output=True, text=True)
    return library


class Pretend(torch.Tensor):
    """A tensor on the device; `inner` is the tensor on the CPU that computes."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )

    def __init__(self, inner: torch.Tensor):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})

    def __reduce_ex__(self, protocol):
        wait("saved")
        return self.inner.clone().__reduce_ex__(protocol)

    def __repr__(self, **kwargs):
        return f"Pretend({self.inner!r})"


class PretendGPU(TorchDispatchMode):
    """Intercepts operations that create tensors on the device, also from tensors on the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def wait(kind: str) -> None:
    """Warn that the host waits."""
    if sync_debug_mode == "warn":
        warnings.warn(f"called a synchronizing operation ({kind})", stacklevel=2)


def set_sync_debug_mode(mode: str) -> None:
    """Do the same as `torch.cuda.set_sync_debug_mode`."""
    global sync_debug_mode
    sync_debug_mode = mode


def compute(func, args, kwargs):
    """Compute an operation with inputs or results on the device."""
    flat, spec = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, torch.Tensor)]
    ours = [t for t in tensors if isinstance(t, Pretend)]
    name = func.overloadpacket.__name__
    wanted = kwargs.get("device")
    if name in ("_pin_memory", "pin_memory"):
        pinned = args[0].clone()
        pinned.is_pinned_pretend = True
        return pinned
    if name == "is_pinned":
        return hasattr(args[0], "is_pinned_pretend")
    if not ours and (wanted is None or torch.device(wanted).type != "cuda"):
        return func(*args, **kwargs)
    if name in ("_to_copy", "copy_"):
        note_copy(name, args, kwargs)
    else:
        check_devices(func, name, tensors, ours)
        note_read(name, args, kwargs)
    stays = bool(ours) if wanted is None else torch.device(wanted).type == "cuda"
    inner = [x.inner if isinstance(x, Pretend) else x for x in flat]
    own = {id(x.inner): x for x in ours}
    inner_args, inner_kwargs = tree_unflatten(inner, spec)
    if wanted is not None:
        inner_kwargs["device"] = "cpu"
    with torch.no_grad():
        result = on_cpu(func, inner_args, inner_kwargs)

    def outer(x):
        if not isinstance(x, torch.Tensor):
            return x
        known = own.get(id(x))  # an operation in place, or with `out`
        if known is None:
            return Pretend(x) if stays else x
        if known.shape != x.shape:
            raise NotImplementedError(f"{func} changes the shape of its argument")
        return known

    return tree_map(outer, result)


def on_cpu(func, args, kwargs):
    """Compute the operation on the CPU; in float32 if the CPU lacks it in half precision."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "half to float conversion" in str(error):  # a softmax that CUDA computes at once
            return func(args[0].float(), args[1], False)
        if "not implemented for 'Half'" not in str(error):
            raise

    def cast(old, new):
        return lambda x: x.to(new) if isinstance(x, torch.Tensor) and x.dtype == old else x

    wide = cast(torch.float16, torch.float32)
    return tree_map(cast(torch.float32, torch.float16), func(*tree_map(wide, args), **kwargs))


def check_devices(func, name, tensors, ours):
    """Raise the error of CUDA if an operation has tensors on two devices."""
    here = [t for t in tensors if not isinstance(t, Pretend)]
    if ours and name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        here = [t for t in here if t.dtype not in (torch.long, torch.bool)]  # copied, which waits
    if torch.Tag.pointwise in func.tags or name.startswith("_foreach"):
        here = [t for t in here if t.dim()]  # numbers are passed with the call
    if ours and here:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and {here[0].device}! ({func})"
        )


def note_copy(name, args, kwargs):
    """Note a copy between devices, which waits unless it is non-blocking from pinned memory."""
    if name == "_to_copy":
        source, non_blocking = args[0], kwargs.get("non_blocking")
        target = kwargs.get("device", source.device)
    else:
        source, non_blocking = args[1], kwargs.get("non_blocking") or args[2:] == (True,)
        target = args[0].device
    if source.device.type == torch.device(target).type:
        return
    if source.dim() == 0 and name == "copy_" and source.device.type == "cpu":
        return  # a number is passed with the call
    if not (non_blocking and hasattr(source, "is_pinned_pretend")):
        wait("copy")


def note_read(name, args, kwargs):
    if name in READS or name == "repeat_interleave" and kwargs.get("output_size") is None:
        wait(name)
    elif name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        indices = [i for i in args[1] if i is not None]
        one_value = name != "index" and args[2].numel() == 1  # masked_fill does it
        masks = [i for i in indices if i.dtype == torch.bool and not one_value]
        if masks or any(not isinstance(i, Pretend) for i in indices):
            wait(name)


def swap(parameter, moved, swap_tensors=torch.utils.swap_tensors) -> None:
    """Do the same as PyTorch's `swap_tensors`, but nothing if the tensor stays where it is.

    PyTorch's refuses tensors that a graph holds, even then.
    """
    if (parameter.device, parameter.dtype) != (moved.device, moved.dtype):
        swap_tensors(parameter, moved)


def install() -> None:
    """Make PyTorch treat the pretend GPU as a real one."""
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_current_stream_capturing": False,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "a pretend GPU",
        "get_device_capability": (7, 0),  # too old for the fused kernels
        "mem_get_info": (8 << 30, 16 << 30),
        "max_memory_allocated": 1 << 20,
        "memory_allocated": 0,
        "reset_peak_memory_stats": None,
        "set_rng_state_all": None,
        "synchronize": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    torch.cuda.get_sync_debug_mode = lambda: sync_debug_mode
    torch.cuda.set_sync_debug_mode = set_sync_debug_mode
    torch.cuda.get_rng_state_all = lambda: [torch.get_rng_state()]
    torch.accelerator.is_available = torch.cuda.is_available
    torch.accelerator.current_accelerator = lambda *args, **kwargs: DEVICE
    for switch in ("flash", "mem_efficient", "cudnn"):
        getattr(torch.backends.cuda, f"enable_{switch}_sdp")(False)
    torch._C._set_only_lift_cpu_tensors(True)  # so that `torch.tensor(1, device="cuda")` is caught
    # so that parameters that two modules share are still shared after `.to`
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch.utils.swap_tensors = swap
    _foreach_supported_types.append(Pretend)
    PretendGPU().__enter__()
