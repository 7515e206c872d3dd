"""Folders of models: written whole, read as numbers, and refused where something is wrong."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import msgspec
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from rldg_policies.octo import released as released_config
from rldg_policies.octo.checkpoint import Checkpoint, load, merge_params, save
from rldg_policies.octo.config import T5, ImageSlot, OctoError
from rldg_policies.octo.model import OctoModel

ACTION = "heads_action/diffusion_model/reverse_network/Dense_1/kernel"


def flat(tree: Any) -> dict[str, np.ndarray]:
    return flatten_dict(tree, sep="/")


def with_leaf(params: Any, path: str, value: np.ndarray | None) -> Any:
    changed = {**flat(params), path: value}
    return unflatten_dict({name: leaf for name, leaf in changed.items() if leaf is not None}, sep="/")


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Checkpoint) -> Path:
    return save(tmp_path / "model", checkpoint)


# --- ours ------------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(folder: Path, checkpoint: Checkpoint) -> None:
    found = load(folder)
    assert found.config == checkpoint.config
    assert found.statistics == checkpoint.statistics
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, checkpoint.params))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "dataset_statistics.json",
        "params.safetensors",
    ]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who may read one may read the other


def test_a_folder_is_replaced_by_the_whole_new_one(folder: Path, checkpoint: Checkpoint) -> None:
    (folder / "old").touch()
    doubled = jax.tree.map(lambda leaf: 2.0 * leaf, checkpoint.params)
    save(folder, checkpoint._replace(params=doubled))
    assert not (folder / "old").exists()
    np.testing.assert_array_equal(flat(load(folder).params)[ACTION], flat(doubled)[ACTION])
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((16, 28), np.nan, np.float32), f"parameter {ACTION} is not finite"),
        (np.zeros((16, 27), np.float32), rf"parameter {ACTION} has shape .16, 27., must be .16, 28."),
        (None, rf"parameter {ACTION} is missing .1 such."),
    ],
)
def test_what_cannot_be_loaded_is_not_saved(
    folder: Path, checkpoint: Checkpoint, value: np.ndarray | None, message: str
) -> None:
    with pytest.raises(OctoError, match=message):
        save(folder, checkpoint._replace(params=with_leaf(checkpoint.params, ACTION, value)))
    assert flat(load(folder).params).keys() == flat(checkpoint.params).keys()


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def put(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100]) and None


def weights(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        found = dict(load_file(folder / "params.safetensors"))
        change(found)
        save_file(found, folder / "params.safetensors")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "config.json: cannot be read: No such file"),
        (remove("config.json"), "config.json: cannot be read: No such file"),
        (remove("params.safetensors"), "params.safetensors: no such file"),
        (remove("dataset_statistics.json"), "dataset_statistics.json: cannot be read"),
        (cut("config.json"), "config.json: is not JSON"),
        (put("config.json", b"[" * 100_000), "config.json: is not JSON"),
        (put("config.json", b"[]"), "config.json: holds a list, must hold an object"),
        (put("config.json", b'{"format": 2, "octo": {}}'), "neither a released config nor one of format 1"),
        (put("config.json", b'{"format": 1, "octo": {"width": 3}}'), "config.json: octo: .*missing required field"),
        (put("dataset_statistics.json", b'{"pegs": NaN}'), "dataset_statistics.json: is not JSON"),
        (cut("params.safetensors"), "params.safetensors: is damaged or no safetensors file"),
        (put("params.safetensors", pickle.dumps({"a": 1})), "params.safetensors: is damaged or no safetensors file"),
        (weights(lambda found: found[ACTION].fill(np.inf)), f"parameter {ACTION} is not finite"),
        (weights(lambda found: found.update({ACTION: np.zeros((2, 2), np.float32)})), f"{ACTION} has shape .2, 2."),
        (weights(lambda found: found.update({ACTION: np.zeros((16, 28))})), f"{ACTION} is float64, must be float32"),
        (weights(lambda found: found.update({"../x": np.zeros(1)})), "parameter ../x is not in the model .1 such."),
        (weights(lambda found: found.__delitem__(ACTION)), f"parameter {ACTION} is missing"),
    ],
)
def test_a_folder_with_something_wrong_is_refused_in_one_line(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(OctoError, match=message) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


# --- released --------------------------------------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Any]:
    """As the release is: Orbax 0.4 put all arrays of ``<step>/default`` into one file of Flax's msgpack.

    Returns:
        The folder and the parameters of its last step.
    """
    folder = tmp_path / "released"
    tiny = T5(vocabulary=16, width=8, layers=2, heads=2, head_width=4, mlp=16)
    monkeypatch.setitem(released_config._T5, "t5-base", tiny)

    def part(module: str, name: str, **kwargs: Any) -> dict[str, Any]:
        return {"module": f"octo.model.components.{module}", "name": name, "args": [], "kwargs": kwargs}

    camera, stem = ["image_wrist"], part("vit_encoders", "SmallStem16")
    tokenizer = part("tokenizers", "ImageTokenizer", encoder=stem, obs_stack_keys=camera, task_stack_keys=camera)
    head = {"action_horizon": 4, "diffusion_steps": 5, "hidden_dim": 16, "num_blocks": 1}
    found = {
        "model": {
            "observation_tokenizers": {"wrist": tokenizer},
            "task_tokenizers": {"language": part("tokenizers", "LanguageTokenizer", encoder="t5-base")},
            "heads": {"action": part("action_heads", "DiffusionActionHead", **head)},
            "readouts": {"action": 1},
            "transformer_kwargs": {"num_layers": 1, "num_attention_heads": 2, "mlp_dim": 32},
            "token_embedding_size": 16,
            "max_horizon": 10,
            "repeat_task_tokens": True,
            "use_correct_attention": True,
        },
        "window_size": 2,
        "dataset_kwargs": {"frame_transform_kwargs": {"resize_size": {"wrist": [16, 16]}}},
    }
    model = OctoModel(msgspec.structs.replace(checkpoint.config, language=tiny))
    for step in (30, 200):
        (folder / str(step) / "default").mkdir(parents=True)
        content = flax.serialization.msgpack_serialize(model.init(step))
        (folder / str(step) / "default" / "checkpoint").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(found))
    (folder / "dataset_statistics.json").write_text(json.dumps(checkpoint.statistics))
    (folder / "example_batch.msgpack").write_bytes(pickle.dumps("nobody reads this"))
    return folder, model.init(200)


def test_a_released_folder_is_loaded_at_its_last_step(released: tuple[Path, Any]) -> None:
    folder, params = released
    found = load(folder)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, params))
    assert found.statistics["pegs"]
    assert isinstance(found.config.language, T5)


def test_another_step_is_loaded_on_request(released: tuple[Path, Any]) -> None:
    folder, params = released
    assert not np.array_equal(flat(load(folder, step=30).params)[ACTION], flat(params)[ACTION])
    with pytest.raises(OctoError, match=r"has no step 40; there are \[30, 200\]"):
        load(folder, step=40)


@pytest.mark.parametrize("one_database", [True, False])
def test_a_folder_that_a_new_orbax_wrote_is_loaded(released: tuple[Path, Any], one_database: bool) -> None:
    folder, params = released
    with ocp.CheckpointManager(folder, ocp.PyTreeCheckpointer(use_ocdbt=one_database)) as manager:
        manager.save(300, params)
    assert jax.tree.all(jax.tree.map(np.array_equal, load(folder).params, params))


def test_statistics_of_an_only_data_set_may_stand_without_its_name(
    released: tuple[Path, Any], checkpoint: Checkpoint
) -> None:
    folder, _ = released
    (folder / "dataset_statistics.json").write_text(json.dumps(checkpoint.statistics["pegs"]))
    assert list(load(folder).statistics) == ["fine-tuning"]


def at_last_step(spoil: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: spoil(folder / "200" / "default")


def another_shape(folder: Path) -> None:
    found = flax.serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    changed = with_leaf(found, ACTION, np.ones((16, 21), np.float32))
    (folder / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(changed))


def zeros(folder: Path) -> None:
    found = flax.serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    changed = with_leaf(found, ACTION, np.zeros((16, 28), np.float32))
    (folder / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(changed))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: [shutil.rmtree(folder / step) for step in ("30", "200")], "has no step ; there are none"),
        (at_last_step(shutil.rmtree), "200/default: no such folder"),
        (at_last_step(remove("checkpoint")), "200/default: cannot be restored"),
        (at_last_step(cut("checkpoint")), "200/default: cannot be restored"),
        (at_last_step(put("checkpoint", pickle.dumps({"a": 1}))), "200/default: cannot be restored"),
        (at_last_step(another_shape), rf"parameter {ACTION} has shape .16, 21., must be .16, 28."),
        (at_last_step(zeros), rf"parameter {ACTION} is all zeros: its file is missing"),
    ],
)
def test_a_released_folder_with_something_wrong_is_refused_in_one_line(
    released: tuple[Path, Any], spoil: Callable[[Path], None], message: str
) -> None:
    folder, _ = released
    spoil(folder)
    with pytest.raises(OctoError, match=message) as refused:
        load(folder)
    assert "\n" not in str(refused.value)


# --- with another config ---------------------------------------------------------------------------------------------


def test_without_a_camera_everything_else_is_kept(model: OctoModel) -> None:
    wrist = model.config.slots[0]
    both = msgspec.structs.replace(model.config, slots=(ImageSlot(name="primary", size_px=32), wrist))
    loaded = OctoModel(both).init(1)
    merged = merge_params(model.init(2), loaded)
    assert merged.fresh == ()
    assert merged.left_over
    assert all("primary" in path for path in merged.left_over)
    np.testing.assert_array_equal(flat(merged.params)[ACTION], flat(loaded)[ACTION])


def test_with_another_horizon_the_ends_of_the_head_are_fresh(model: OctoModel) -> None:
    longer = OctoModel(msgspec.structs.replace(model.config, action_horizon=8))
    fresh, loaded = longer.init(2), model.init(1)
    merged = merge_params(fresh, loaded)
    head = "heads_action/diffusion_model/reverse_network"
    assert merged.fresh == (f"{head}/Dense_0/kernel", f"{head}/Dense_1/bias", f"{head}/Dense_1/kernel")
    assert merged.left_over == merged.fresh
    np.testing.assert_array_equal(flat(merged.params)[ACTION], flat(fresh)[ACTION])
