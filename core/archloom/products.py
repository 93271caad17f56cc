"""The multiply-adds of a network's layers, counted while it runs: below its modules, where nothing can hide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

_CONVOLUTIONS = frozenset((_aten.convolution, _aten._convolution, _aten.cudnn_convolution))
_PRODUCTS = frozenset((_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.addbmm))
_VECTORS = frozenset((_aten.mv, _aten.addmv, _aten.dot, _aten.vdot))

_METADATA = frozenset(
    (
        torch.ops.aten.sym_is_contiguous.default,
        torch.ops.aten.is_contiguous.default,
        torch.ops.aten.is_contiguous.memory_format,
        torch.ops.aten.is_strides_like_format.default,
        torch.ops.aten.is_non_overlapping_and_dense.default,
        torch.ops.aten.size.default,
        torch.ops.aten.stride.default,
        torch.ops.aten.storage_offset.default,
        torch.ops.aten.numel.default,
        torch.ops.aten.dim.default,
        torch.ops.prim.layout.default,
        torch.ops.prim.device.default,
    )
)


class LayerProducts:
    """A context without gradients in which `macs` counts the multiply-adds of what is called.

    Convolutions count, and matrix products of which not both factors come from `image`: PyTorch runs a linear layer
    as one of several products, by the layout of its input, and what tells a layer from an attention is that one of
    its factors is the same for every image. A call of the functions that layers stand for (`F.linear`,
    `F.bilinear`) counts whatever its weights come from.
    """

    def __init__(self, image: Tensor) -> None:
        self.macs = 0
        self.of_layer = False
        # storages that depend on the image, by their addresses: they are kept, so that no other gets one of these
        self._marked: dict[int, Any] = {}
        # in inference mode, operators arrive before they are taken apart; leaving it turns gradients on
        self._modes = (torch.inference_mode(False), torch.no_grad(), _Layers(self), _Operators(self))
        self.mark([image])

    def __enter__(self) -> LayerProducts:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def mark(self, tensors: Iterable[Tensor]) -> None:
        """Say of tensors that they depend on the image."""
        for tensor in tensors:
            if (storage := _storage(tensor)) is not None:
                self._marked[storage._cdata] = storage

    def depends(self, tensor: Any) -> bool:
        """Whether a tensor depends on the image."""
        if not isinstance(tensor, Tensor):
            return False
        storage = _storage(tensor)
        return storage is not None and storage._cdata in self._marked

    def add(self, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Count one operator's call, if it is a layer's product."""
        if operator in _CONVOLUTIONS:
            from torch.utils.flop_counter import flop_registry  # imports triton: not before it is needed

            self.macs += flop_registry[operator](*args, **kwargs, out_val=out) // 2
        elif operator in _PRODUCTS or operator in _VECTORS:
            left, right = [value for value in args if isinstance(value, Tensor)][-2:]
            image = self.depends(left) + self.depends(right)
            if operator in _PRODUCTS and (self.of_layer or image < 2):
                self.macs += left.numel() * right.shape[-1]
            elif operator in _VECTORS and (
                self.of_layer or image == 1
            ):  # a spectral norm's are of weights alone
                self.macs += left.numel()


class _Layers(TorchFunctionMode):
    """Sees the calls of functions that layers stand for."""

    def __init__(self, products: LayerProducts) -> None:
        super().__init__()
        self.products = products

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear:
            before, self.products.of_layer = self.products.of_layer, True
            try:
                return func(*args, **kwargs)
            finally:
                self.products.of_layer = before
        out = func(*args, **kwargs)
        if func is torch.nn.functional.bilinear:
            weight = args[2] if len(args) > 2 else kwargs["weight"]
            self.products.macs += out.numel() * weight[0].numel()
        return out


class _Operators(TorchDispatchMode):
    """Sees every operator that runs: counts the products, and follows what depends on the image."""

    def __init__(self, products: LayerProducts) -> None:
        super().__init__()
        self.products = products

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA:
            return NotImplemented
        out = func(*args, **kwargs)
        products = self.products
        products.add(getattr(func, "_overloadpacket", None), args, kwargs, out)
        if any(map(products.depends, _tensors((args, kwargs)))):
            products.mark(_tensors(out))
            if func._schema.is_mutable:
                products.mark(_written(func, args, kwargs))
        return out


def _storage(tensor: Tensor) -> Any:
    """The memory that a tensor is a view of; None for one without, as a sparse one."""
    return tensor.untyped_storage() if tensor.layout == torch.strided else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The arguments that an operator writes into."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(args[number] if number < len(args) else kwargs.get(argument.name))
