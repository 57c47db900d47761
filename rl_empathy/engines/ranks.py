"""The processes of one training engine: joined by gloo on CPUs, by NCCL on GPUs."""

from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
NEVER = timedelta(days=30)
"""A collective that hangs is ended by the driver, at its own deadline for the call, with the stacks of all ranks."""


def open_store(ranks: int) -> dist.TCPStore:
    """Open the store at which the ranks meet; rank 0 keeps it.

    torch's store listens on every interface of the node, as gloo and NCCL do: a cluster's network has to be its own.

    Args:
        ranks: That will meet there.

    Returns:
        The store; the system has chosen its port.
    """
    return dist.TCPStore("0.0.0.0", 0, ranks, is_master=True, wait_for_workers=False)


def meet(rank: int, ranks: int, store: dist.Store) -> None:
    """Join the other ranks; returns when all are there."""
    dist.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=NEVER,
    )


def meet_alone() -> None:
    """Be the only rank, which listens nowhere."""
    if not dist.is_initialized():
        meet(0, 1, dist.HashStore())


def from_every_rank(value: T) -> list[T]:
    """What each rank has of a small value, in order of rank."""
    if dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
