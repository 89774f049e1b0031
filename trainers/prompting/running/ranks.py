"""Splits one run over several processes, its ranks, with the results of a single process.

Outside of the encoders and the score, every tensor is whole and equal on all ranks: a method sees
the tensors of a single process, and needs no code for ranks. Inside, each rank computes its share
of the images or classes. Three functions convert between the two, with the gradients of a single
process; two of them are g and f of Megatron-LM (Shoeybi et al. 2019, section 3).

    own     whole -> share                  backward: gathers the shares
    whole   share -> whole                  backward: takes the rank's share
    read    whole -> whole, as the input    backward: sums over the ranks
            of what computes a share

A share is a slice of consecutive rows; sizes differ by one row at most. If there are fewer rows
than ranks, each rank computes all rows. Outside of `joined` there is one rank, and these functions
return their input.

Letters: W ranks, n rows of a whole tensor.
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
    """The ranks of this run; one rank outside of `joined`."""

    rank, size = 0, 1
    store: dist.Store | None = None


_WORLD = _World()


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun has started; without torchrun nothing happens.

    Only the first rank prints: the output of the others is discarded.

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
        dist.destroy_process_group()  # not after an error: other ranks may still be waiting
        _WORLD.store = None
    finally:
        _WORLD.rank, _WORLD.size = 0, 1


def count() -> int:
    """Return W, the number of ranks."""
    return _WORLD.size


def count_here() -> int:
    """Return the number of ranks on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _WORLD.size > 1 else 1


def is_first() -> bool:
    """Return True on the rank that writes files and prints."""
    return _WORLD.rank == 0


def claims_report() -> bool:
    """Return True to the first rank that calls this: it reports why the run ends."""
    if _WORLD.store is None:
        return True
    try:
        return _WORLD.store.add("reported", 1) == 1
    except RuntimeError:  # torchrun has ended, and with it the store that the ranks share
        return False


# ------------------------------------------------------------------ shares


def share(n: int, rank: int | None = None) -> slice:
    """Return the rows, of n, that this rank or the given one computes."""
    rank = _WORLD.rank if rank is None else rank
    if n < _WORLD.size:
        return slice(0, n)
    least, more = divmod(n, _WORLD.size)
    start = rank * least + min(rank, more)
    return slice(start, start + least + (rank < more))


def largest(n: int) -> int:
    """Return the size of the largest share of n rows."""
    return share(n, 0).stop


def _alone(n: int) -> bool:
    """Return True if every rank computes all n rows."""
    return _WORLD.size == 1 or n < _WORLD.size


def shares(n: int) -> bool:
    """Return True if each rank computes only its share of n rows."""
    return not _alone(n)


def own(x: Maybe, dim: int = 0) -> Maybe:
    """Return this rank's rows of a whole tensor; None stays None, as in `whole` and `read`."""
    return x if x is None or _alone(x.shape[dim]) else _Own.apply(x, dim)


def whole(x: Maybe, n: int, dim: int = 0) -> Maybe:
    """Gather the shares x of all ranks into a tensor of n rows."""
    return x if x is None or _alone(n) else _Whole.apply(x, n, dim)


def read(tensors: MaybeMany, n: int) -> MaybeMany:
    """Return whole tensors, equal on all ranks, as inputs of a computation of shares of n rows."""
    if tensors is None or not tensors or _alone(n):
        return tensors
    return _Read.apply(*tensors)


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """Apply dropout at the rate p to a share; the random generators of all ranks stay in step."""
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
    mine = x.new_zeros(most, *x.shape[1:])  # gloo needs the same size on all ranks
    mine[: len(x)] = x
    parts = x.new_empty(_WORLD.size * most, *x.shape[1:])
    _together(_ALL_GATHER, parts, mine)
    sizes = [len(range(n)[share(n, rank)]) for rank in range(_WORLD.size)]
    rows = [part[:size] for part, size in zip(parts.split(most), sizes, strict=True)]
    return torch.cat(rows).movedim(0, dim)


# ------------------------------------------------------------------ exchange between ranks


def total(x: torch.Tensor) -> torch.Tensor:
    """Return the sum of x over the ranks, without gradient."""
    if _WORLD.size > 1:
        x = x.clone()
        _together(dist.all_reduce, x)
    return x


@torch.no_grad()
def agree(tensors: Iterable[torch.Tensor | None]) -> None:
    """Overwrite tensors by those of the first rank, so that rounding does not let ranks diverge."""
    found = [x for x in tensors if x is not None] if _WORLD.size > 1 else []
    if found:
        flat = torch.cat([x.flatten() for x in found])
        _together(dist.broadcast, flat, 0)
        for x, part in zip(found, flat.split([x.numel() for x in found]), strict=True):
            x.copy_(part.view_as(x))


def of_first(value: Any) -> Any:
    """Return the first rank's value, which must be picklable."""
    values = [value]
    if _WORLD.size > 1:
        _together(dist.broadcast_object_list, values, 0)
    return values[0]


def of_all(value: Any) -> list:
    """Return the values of all ranks, which must be picklable."""
    values = [value] * _WORLD.size
    if _WORLD.size > 1:
        _together(dist.all_gather_object, values, value)
    return values


def check_same(what: str, value: object, remedy: str) -> None:
    """Check that a value is the same on all ranks.

    Raises:
        UserError: a rank's value differs from that of the first rank.
    """
    values = of_all(value)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise UserError(
                f"Rank {rank} has {what} {other} but the first rank has {values[0]}: {remedy}"
            )


def wait() -> None:
    """Wait until all ranks have reached this call."""
    of_all(None)


def _together(operation, *args) -> None:
    """Run a collective operation.

    Raises:
        UserError: another rank has died.
    """
    try:
        operation(*args)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # shapes agree on all ranks, so this is the only cause
        said = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"Another rank of this run has died or cannot be reached ({said}): rerun to resume "
            "from the last epoch",
            exit_code=1,
        ) from None


class ShareLoader:
    """A loader of batches that are equal on all ranks; each rank loads its share only."""

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
    """A batch sampler that yields this rank's share of each batch."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for batch in self.batches:
            yield batch[share(len(batch))]
