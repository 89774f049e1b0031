"""One run on several processes, its ranks: what each of them computes, and how it becomes whole.

Outside of the encoders and of the score every tensor is whole and the same on all ranks: a method
reads what it would read in one process, and knows nothing of ranks. Inside, a rank computes its
share, of the images or of the classes. Three functions lead in and out, with the gradients that
one process has; two of them are g and f of Megatron-LM (Shoeybi et al. 2019, section 3).

    own     whole -> share             backward: the shares become whole
    whole   share -> whole             backward: a rank's own share
    read    whole -> whole, for what   backward: the sum over the ranks
            computes a share

A share is of consecutive rows, of which no rank has two more than another. Where there are fewer
rows than ranks, each rank computes all of them. Outside of `joined` there is one rank, and these
functions return what they are given.

Letters: W ranks, n rows of what is whole.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.distributed.rendezvous import rendezvous

from ..errors import UserError

Maybe = TypeVar("Maybe", bound=torch.Tensor | None)  # some methods have no patches
MaybeMany = TypeVar("MaybeMany", bound=Sequence[torch.Tensor] | None)  # some have no contexts

# its name since PyTorch 2.13, and before
_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _World:
    """The ranks of this run; one where nothing has been joined."""

    rank, size = 0, 1
    store: dist.Store | None = None


_WORLD = _World()


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes that torchrun has started; without torchrun nothing happens.

    The first rank alone is heard: what the others print goes nowhere.

    Raises:
        UserError: there are more ranks on this machine than GPUs.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    store, rank, size = next(rendezvous("env://"))
    _WORLD.store = store
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if here > gpus:
            raise UserError(
                f"torchrun starts {here} ranks on a machine with {gpus} GPUs: start one for each"
            )
        torch.cuda.set_device(local)
    dist.init_process_group(store=store, rank=rank, world_size=size)
    _WORLD.rank, _WORLD.size = rank, size
    try:
        with ExitStack() as stack:
            if rank:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield
        dist.destroy_process_group()  # not after an error: others may wait for an answer
        _WORLD.store = None
    finally:
        _WORLD.rank, _WORLD.size = 0, 1


def count() -> int:
    """W."""
    return _WORLD.size


def count_here() -> int:
    """The ranks on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _WORLD.size > 1 else 1


def is_first() -> bool:
    """Whether this is the rank that writes files and is heard."""
    return _WORLD.rank == 0


def tells() -> bool:
    """Whether this rank is to say why the run ends: the one that asks first."""
    if _WORLD.store is None:
        return True
    try:
        return _WORLD.store.add("told", 1) == 1
    except RuntimeError:  # torchrun has gone, and with it what the ranks share
        return False


# ------------------------------------------------------------------ shares


def share(n: int, rank: int | None = None) -> slice:
    """The rows of this rank, or of another one."""
    rank = _WORLD.rank if rank is None else rank
    if n < _WORLD.size:
        return slice(0, n)
    least, more = divmod(n, _WORLD.size)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


def largest(n: int) -> int:
    """The rows of the rank that has most."""
    return share(n, 0).stop


def _alone(n: int) -> bool:
    """Whether every rank computes all n rows."""
    return _WORLD.size == 1 or n < _WORLD.size


def shares(n: int) -> bool:
    """True if ranks compute shares of n rows."""
    return not _alone(n)


def own(x: Maybe, dim: int = 0) -> Maybe:
    """This rank's rows of a whole tensor; None stays None, as in the functions below."""
    return x if x is None or _alone(x.shape[dim]) else _Own.apply(x, dim)


def whole(x: Maybe, n: int, dim: int = 0) -> Maybe:
    """The n rows of which each rank has its share in x."""
    return x if x is None or _alone(n) else _Whole.apply(x, n, dim)


def read(tensors: MaybeMany, n: int) -> MaybeMany:
    """Whole tensors, the same on all ranks, for the computation of shares of n rows."""
    if tensors is None or not tensors or _alone(n):
        return tensors
    return _Read.apply(*tensors)


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Dropout of a share, at the rate p; afterwards all ranks draw the same random numbers."""
    if _WORLD.size == 1:
        return F.dropout(x, p)
    seed = int(torch.randint(1 << 62, ())) + _WORLD.rank
    generator = torch.Generator(x.device).manual_seed(seed)
    return x * torch.empty_like(x).bernoulli_(1 - p, generator=generator) / (1 - p)


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dim):
        ctx.n, ctx.dim = x.shape[dim], dim
        return _rows(x, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _gathered(grad, ctx.n, ctx.dim), None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, n, dim):
        ctx.dim = dim
        return _gathered(x, n, dim)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _rows(grad, ctx.dim), None, None


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *tensors):
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        flat = total(torch.cat([grad.flatten().float() for grad in grads]))
        parts = flat.split([grad.numel() for grad in grads])
        return tuple(p.view(g.shape).to(g.dtype) for p, g in zip(parts, grads, strict=True))


def _rows(x, dim):
    at = share(x.shape[dim])
    return x.narrow(dim, at.start, at.stop - at.start).contiguous()


def _gathered(x: torch.Tensor, n: int, dim: int) -> torch.Tensor:
    x = x.movedim(dim, 0)
    most = largest(n)
    mine = x.new_zeros(most, *x.shape[1:])  # gloo wants the same size of all
    mine[: len(x)] = x
    parts = x.new_empty(_WORLD.size * most, *x.shape[1:])
    _together(_ALL_GATHER, parts, mine)
    sizes = [len(range(n)[share(n, rank)]) for rank in range(_WORLD.size)]
    rows = [part[:size] for part, size in zip(parts.split(most), sizes, strict=True)]
    return torch.cat(rows).movedim(0, dim)


# ------------------------------------------------------------------ what all ranks say


def total(x: torch.Tensor) -> torch.Tensor:
    """The sum over the ranks, without gradient."""
    if _WORLD.size > 1:
        x = x.clone()
        _together(dist.all_reduce, x)
    return x


@torch.no_grad()
def agree(tensors: Iterable[torch.Tensor | None]) -> None:
    """Replace tensors by those of the first rank: replicas must not drift apart by rounding."""
    found = [x for x in tensors if x is not None] if _WORLD.size > 1 else []
    if found:
        flat = torch.cat([x.flatten() for x in found])
        _together(dist.broadcast, flat, 0)
        for x, part in zip(found, flat.split([x.numel() for x in found]), strict=True):
            x.copy_(part.view_as(x))


def of_first(value: Any) -> Any:
    """The first rank's value, which can be pickled."""
    values = [value]
    if _WORLD.size > 1:
        _together(dist.broadcast_object_list, values, 0)
    return values[0]


def of_all(value: Any) -> list:
    """Every rank's value, which can be pickled."""
    values = [value] * _WORLD.size
    if _WORLD.size > 1:
        _together(dist.all_gather_object, values, value)
    return values


def check_same(what: str, value: object, remedy: str) -> None:
    """Refuse to go on where ranks have different values.

    Raises:
        UserError: another rank has another value than the first one.
    """
    values = of_all(value)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise UserError(
                f"Rank {rank} has {what} {other} but the first rank has {values[0]}: {remedy}"
            )


def wait() -> None:
    """Go on when all ranks have come here."""
    of_all(None)


def _together(operation, *args) -> None:
    """Do something on all ranks at once.

    Raises:
        UserError: another rank has died.
    """
    try:
        operation(*args)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # tensors are of one shape on all ranks: nothing else goes wrong
        said = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"Another rank of this run has died or cannot be reached ({said}): the same command "
            "goes on from the last epoch",
            exit_code=1,
        ) from None


class ShareLoader:
    """A loader whose batches, the same on all ranks, each loads in part, and gets whole."""

    def __init__(self, loader, device: torch.device):
        self.sizes = [
            min(loader.batch_size, len(loader.sampler) - start)
            for start in range(0, len(loader) * loader.batch_size, loader.batch_size)
        ]
        self.device = device
        self.loader = torch.utils.data.DataLoader(
            loader.dataset,
            batch_sampler=_Shares(loader.batch_sampler),
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            persistent_workers=loader.persistent_workers,
            generator=loader.generator,
        )

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        for batch, n in zip(self.loader, self.sizes, strict=True):
            yield {name: self._whole(value, n) for name, value in batch.items()}

    def _whole(self, value, n: int):
        if torch.is_tensor(value):
            return whole(value.to(self.device, non_blocking=True), n)
        if value and torch.is_tensor(value[0]):  # views of the same images
            return [self._whole(view, n) for view in value]
        if _alone(n):
            return value
        return [item for part in of_all(value) for item in part]


class _Shares:
    """The batches of a sampler, of each this rank's share."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for batch in self.batches:
            yield batch[share(len(batch))]
