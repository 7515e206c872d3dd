"""Weights of the language model rounded to 8 or 4 bits: less memory to read, and other answers now and then.

A token that is decoded on its own reads every weight once, so what that costs is how large the weights are. Only the
linear layers inside the language model are rounded: the vision towers compute much with few weights, and of the head
only the rows of actions are read. Products are those of PyTorch for such weights, in bfloat16, where it has them for
the processor at hand and they agree with the plain ones; elsewhere weights are made whole for every product, which
saves memory and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rldg_policies.openvla.config import Mode
from rldg_policies.openvla.memory import check_free, weight_bytes
from rldg_policies.openvla.model import OpenVLAModel, make_model

_FEW = 8  # rows up to which the product with 8-bit weights is the faster one: 1.6 ms against 7.5 for one, even at 7
_GROUPS = (128, 64, 32)  # inputs that share a scale, the largest that divides them
_HALF = torch.bfloat16


class RoundedLinear(nn.Module):
    """A linear layer without bias that was filled with rounded weights.

    Args:
        outputs, inputs: of the layer.
        packed: use PyTorch's product for such weights, see :func:`has_product`.

    Raises:
        ValueError: there is no layout for that many inputs.
    """

    def __init__(self, outputs: int, inputs: int, packed: bool) -> None:
        super().__init__()
        self.outputs, self.inputs, self.packed = outputs, inputs, packed

    def fill(self, weight: Tensor) -> None:
        """Take the weights (outputs, inputs).

        Raises:
            ValueError: one is not finite.
        """
        if not torch.isfinite(weight.sum(dtype=torch.float32)):
            raise ValueError("a weight is not finite; the training diverged or the file is damaged")
        self._fill(weight.detach().float())

    def _fill(self, weight: Tensor) -> None:
        raise NotImplementedError

    def dequantised(self) -> Tensor:
        """The rounded weights, (outputs, inputs) float32; of layers that are not packed."""
        raise NotImplementedError

    def _product(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x.reshape(-1, self.inputs)).view(*x.shape[:-1], self.outputs).to(x.dtype)


class Int8Linear(RoundedLinear):
    """One scale for each output, symmetric: an error of at most half a scale, 1/254 of the largest weight."""

    weight: Tensor
    scale: Tensor

    def __init__(self, outputs: int, inputs: int, packed: bool) -> None:
        super().__init__(outputs, inputs, packed)
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(outputs, dtype=_HALF))

    def _fill(self, weight: Tensor) -> None:
        # rounding the scale to 8 bits moves 127 by less than half a step: nothing leaves the range
        self.scale.copy_((weight.abs().amax(1) / 127.0).clamp_min(torch.finfo(_HALF).tiny))
        self.weight.copy_((weight / self.scale.float()[:, None]).round())

    def dequantised(self) -> Tensor:
        return self.weight.float() * self.scale.float()[:, None]

    def _product(self, x: Tensor) -> Tensor:
        if not self.packed:
            return F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        seen = x.to(_HALF)
        if len(x) <= _FEW:
            return torch.ops.aten._weight_int8pack_mm(seen, self.weight, self.scale)
        # rounded where the other product rounds, so that an answer does not depend on how many tokens a pass has
        whole = F.linear(seen.to(x.dtype), self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return whole.to(_HALF)


class Int4Linear(RoundedLinear):
    """Sixteen values between the smallest and the largest weight of each group of inputs of an output.

    A weight is ``(n - 8) * scale + zero``, the form that PyTorch's products read. Packed weights are in the order that
    the product of the device likes.
    """

    weight: Tensor
    scale_and_zero: Tensor  # (groups, outputs, 2)

    def __init__(self, outputs: int, inputs: int, packed: bool) -> None:
        super().__init__(outputs, inputs, packed)
        groups = [group for group in _GROUPS if inputs % group == 0]
        if not groups:
            raise ValueError(f"fast_int4: a layer has {inputs} inputs, must be a multiple of {_GROUPS[-1]}")
        self.group = groups[0]
        self.register_buffer("weight", torch.zeros(outputs, inputs // 2, dtype=torch.uint8))
        self.register_buffer("scale_and_zero", torch.zeros(inputs // self.group, outputs, 2, dtype=_HALF))

    def _fill(self, weight: Tensor) -> None:
        grouped = weight.unflatten(1, (-1, self.group))
        low, high = grouped.amin(-1), grouped.amax(-1)
        scale = ((high - low) / 15.0).clamp_min(torch.finfo(_HALF).tiny).to(_HALF)
        zero = (low + 8.0 * scale.float()).to(_HALF)
        self.scale_and_zero.copy_(torch.stack([scale.T, zero.T], -1))
        levels = ((grouped - zero.float()[..., None]) / scale.float()[..., None]).round().add(8.0).clamp(0.0, 15.0)
        levels = levels.flatten(1).to(torch.int32)
        pairs = (levels[:, ::2] << 4 | levels[:, 1::2]).to(torch.uint8)
        if not self.packed:
            self.weight.copy_(pairs)
        elif pairs.device.type == "cpu":
            self.weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        else:
            self.weight = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)

    def dequantised(self) -> Tensor:
        levels = torch.stack([self.weight >> 4, self.weight & 15], -1).flatten(1).unflatten(1, (-1, self.group))
        scale, zero = (part.T.float()[..., None] for part in self.scale_and_zero.unbind(-1))
        return ((levels.float() - 8.0) * scale + zero).flatten(1)

    def _product(self, x: Tensor) -> Tensor:
        if not self.packed:
            return F.linear(x, self.dequantised().to(x.dtype))
        if x.device.type == "cpu":
            product = torch.ops.aten._weight_int4pack_mm_for_cpu
        else:
            product = torch.ops.aten._weight_int4pack_mm
        return product(x.to(_HALF), self.weight, self.group, self.scale_and_zero)


_KINDS: dict[str, Callable[[int, int, bool], RoundedLinear]] = {"fast_int8": Int8Linear, "fast_int4": Int4Linear}


@cache
def has_product(mode: Mode, outputs: int, inputs: int, device: str) -> bool:
    """Whether PyTorch has a product for rounded weights of that shape there, and it is right."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).to(device)
    rows = torch.randn(2, inputs, generator=generator).to(device, _HALF)
    layers = [_KINDS[mode](outputs, inputs, packed).to(device) for packed in (True, False)]
    try:
        for layer in layers:
            layer.fill(weight)
        found = layers[0](rows).float()
    except (RuntimeError, AttributeError):  # no such kernel, or not for such shapes
        return False
    expected = F.linear(rows.float(), layers[1].dequantised())
    return bool(((found - expected).abs() <= 0.02 * expected.abs().max()).all())


def put_rounded_layers(model: OpenVLAModel, mode: Mode, device: torch.device) -> dict[str, RoundedLinear]:
    """Put empty rounded layers in the place of linear ones.

    Args:
        model: on the meta device.
        device: that it is going to be on.

    Returns:
        The layers, by the names of the weights that they have to be filled with.

    Raises:
        ValueError: the sizes of the model do not allow it.
    """
    placed: dict[str, RoundedLinear] = {}
    for name, parent, child, linear in list(_linear_layers(model)):
        packed = has_product(mode, linear.out_features, linear.in_features, str(device))
        with torch.device("meta"):
            placed[f"{name}.weight"] = layer = _KINDS[mode](linear.out_features, linear.in_features, packed)
        setattr(parent, child, layer)
    return placed


def rounded_copy(model: OpenVLAModel, mode: Mode) -> OpenVLAModel:
    """The same model with rounded layers; what is not rounded is shared with it.

    Raises:
        ValueError: a weight is not finite, the sizes of the model do not allow it, or there is too little memory.
    """
    weight, tensors = model.language_model.lm_head.weight, dict(model.state_dict())
    copy = make_model(model.spec, weight.dtype).eval()
    rounded = put_rounded_layers(copy, mode, weight.device)
    check_free(f"a {mode} copy", sum(map(weight_bytes, rounded.values())), weight.device)
    for name, layer in rounded.items():
        layer.to_empty(device=weight.device)
        try:
            layer.fill(tensors.pop(name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    copy.load_state_dict(tensors, strict=False, assign=True)
    copy.language_model.model.rotary_emb = model.language_model.model.rotary_emb
    return copy


def _linear_layers(model: OpenVLAModel) -> Iterator[tuple[str, Any, str, nn.Linear]]:
    """Name, parent, name in the parent and layer, of every linear layer between embedding and head."""
    root = "language_model.model.layers"
    for name, module in model.get_submodule(root).named_modules():
        for child, linear in module.named_children():
            if isinstance(linear, nn.Linear):
                yield f"{root}.{name}.{child}", module, child, linear
