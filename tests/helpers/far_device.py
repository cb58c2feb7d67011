"""A device that is not there, for machines without a GPU: tensors on it are computed on the CPU, to
the same numbers, but none may meet one that is not on it, as on a GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)


class Backend(_DummyBackendModule):
    """What torch asks of a device besides; checkpoints ask for its types of mixed precision. Who
    looks for a device, as other tests in this process may, finds none.
    """

    def is_available(self):
        return False

    def device_count(self):
        return 0

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("far", Backend())
FAR = torch.device("far:0")
MOVES = {"copy_", "_to_copy"}
INDEXES = {"index", "index_put_", "_index_put_impl_"}
"""That take places on the CPU, too, where what they look into is on a device."""


class FarTensor(torch.Tensor):
    """A tensor that says it is on :data:`FAR`, and what it really is."""

    near: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near):
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), storage_offset=near.storage_offset(),
            dtype=near.dtype, device=FAR,
        )  # fmt: skip
        made.near = near
        return made

    def tolist(self):
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class FarMode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func, args, kwargs):
    """Compute an operation on the CPU, if its tensors are where they should be."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = {id(tensor.near): tensor for tensor in tensors if isinstance(tensor, FarTensor)}
    elsewhere = [at for at in tensors if at.ndim and not isinstance(at, FarTensor)]
    indexes_far = name in INDEXES and isinstance(args[0], FarTensor)
    if far and elsewhere and name not in MOVES and not indexes_far:
        raise RuntimeError(f"{name}: tensors on two devices, {[*elsewhere[0].shape]} on the CPU")
    args, kwargs = tree_map(
        lambda leaf: leaf.near if isinstance(leaf, FarTensor) else leaf, (args, kwargs)
    )
    if kwargs.get("device") is not None:
        goes_far = torch.device(kwargs["device"]).type == FAR.type
        kwargs = {**kwargs, "device": "cpu"}
    else:
        first = tensors[0] if tensors else None
        goes_far = isinstance(first, FarTensor) if name == "copy_" else bool(far)
    found = func(*args, **kwargs)
    if not goes_far:
        return found
    return tree_map(
        lambda leaf: (
            (far[id(leaf)] if id(leaf) in far else FarTensor(leaf))
            if isinstance(leaf, torch.Tensor)
            else leaf
        ),
        found,
    )


@contextmanager
def far_device() -> Iterator[None]:
    """Have tensors on :data:`FAR` for as long as the block lasts."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor asks no mode for its memory
    try:
        with FarMode():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def move_far(model) -> None:
    """Put a ``LoraModel`` on :data:`FAR`, within :func:`far_device`."""
    model.module.to(FAR)
    model._devices = dict.fromkeys(model._devices, FAR)
