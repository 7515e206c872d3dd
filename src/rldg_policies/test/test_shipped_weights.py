"""The weights that come with this project are there, whole, small, and those that configurations begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rldg_core.task import config_directory
from rldg_policies.finetuning import base_folder, load_finetune_config
from rldg_policies.normalisation import load_statistics

SHIPPED = {"octo_nano": "octo-nano", "openvla_nano": "openvla-nano"}
MOST_BYTES = 12_000_000  # of a model: it is cloned by everybody


@pytest.mark.parametrize("name", SHIPPED)
def test_the_configuration_begins_with_them_and_its_pretraining_with_nothing(name: str) -> None:
    config, before = load_finetune_config(name), load_finetune_config(name, "pretraining")
    folder = base_folder(config.base)
    assert folder == config_directory().parent / "pretrained" / SHIPPED[name]
    assert sum(path.stat().st_size for path in folder.iterdir()) < MOST_BYTES
    assert before.base == SHIPPED[name] and before.type == config.type
    assert load_statistics(folder / "dataset_statistics.json")[1].size == 7


def test_octo_is_that_of_its_preset() -> None:
    import jax

    from rldg_policies.octo.checkpoint import load
    from rldg_policies.octo.presets import preset

    found = load(base_folder("pretrained/octo-nano"))
    assert found.config == preset("octo-nano")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))


def test_openvla_is_that_of_its_preset() -> None:
    import msgspec

    from rldg_policies.openvla.checkpoint import load
    from rldg_policies.openvla.presets import preset

    found = load(base_folder("pretrained/openvla-nano")).model.spec
    trained = {"torch_dtype": found.torch_dtype, "center_crop": found.center_crop}
    assert found == msgspec.structs.replace(preset("openvla-nano"), **trained)


def test_another_name_is_a_path(tmp_path: Path) -> None:
    assert base_folder(str(tmp_path)) == tmp_path
    assert base_folder("pretrained/nothing") == Path("pretrained/nothing")
