"""The processes of one training engine: joined by gloo on CPUs, by NCCL on GPUs."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
NEVER = timedelta(days=30)
"""A collective that hangs is ended by the driver, at its own deadline for the call, with the stacks of all ranks."""


def open_store(address: str, ranks: int) -> dist.TCPStore:
    """Open the store at which the ranks meet, on one address of this node; rank 0 keeps it.

    torch opens its own socket on every interface, so the store gets one that listens already. Where gloo and NCCL
    listen, their environment says.

    Args:
        address: Address of this node, as the other ranks reach it; loopback where all ranks are on one machine.
        ranks: That will meet there.

    Returns:
        The store; the system has chosen its port.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    door = socket.create_server((address, 0), family=family)
    port = door.getsockname()[1]
    return dist.TCPStore(
        address, port, ranks, is_master=True, wait_for_workers=False, master_listen_fd=door.detach()
    )


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


@contextmanager
def first_rank_first() -> Iterator[None]:
    """What is done inside, rank 0 has finished before the others begin: it makes what they then find."""
    meet_alone()
    if dist.get_rank() > 0:
        dist.barrier()
    yield
    if dist.get_rank() == 0:
        dist.barrier()
