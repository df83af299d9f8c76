"""What a frozen base needs before the first round: it is put in order once, and is the same on every rank."""

from __future__ import annotations

from functools import partial

from torch import nn

from raffm_mpi.elastic.labels import Selection
from raffm_mpi.elastic.packing import pack
from raffm_mpi.elastic.table import ModelLayout
from raffm_mpi.errors import UserMistake
from raffm_mpi.exchange.ranks import Ranks
from raffm_mpi.methods import Method


def put_in_order(model: nn.Module, layout: ModelLayout, method: Method) -> Selection:
    """Put a frozen base, and its adapters with it, in the method's order for the whole run; returns the permutation.

    The parameters come to lie where kernels see the same alignment on every rank.
    """
    parameters = dict(model.named_parameters())
    order = method.order({name: parameters[name].detach() for name in parameters if name in layout.frozen})
    layout.check(order)
    ordered = pack(layout, layout.take({name: p.detach() for name, p in parameters.items()}, order)).tensors
    for name, parameter in parameters.items():
        parameter.data = ordered[name]
    return order


def check_alike(sha256: str, ranks: Ranks) -> None:
    """Raise UserMistake, on every rank, where a rank has other frozen weights than rank 0: they never travel."""
    ranks.together(partial(_check_own, ranks.describe(sha256), ranks))


def _check_own(found: list[str], ranks: Ranks) -> None:
    own = found[ranks.rank]
    if own != found[0]:
        raise UserMistake(
            f"model: rank {ranks.rank} on {ranks.host} has other frozen weights than rank 0 (SHA-256 "
            f"{own[:16]}…, not {found[0][:16]}…); every node must read the same model"
        )
