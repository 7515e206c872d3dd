"""A folder with the released layout is loaded, fine-tuned, saved and loaded; one that is not whole is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from rldg_policies.openvla import checkpoint, memory
from rldg_policies.openvla.checkpoint import load, load_model, read_config, save
from rldg_policies.openvla.config import CheckpointError
from rldg_policies.openvla.lora import add_adapter, merge
from rldg_policies.openvla.policy import OpenVLA

Edit = Callable[..., None]
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def _fine_tune(policy: OpenVLA) -> None:
    """One step of the released recipe."""
    adapted = add_adapter(policy.model)
    with torch.no_grad():  # so that one step reaches both matrices
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    example = policy.prompts.example("insert the plug", policy.ids([0.1] * 7))
    batch = policy.prompts.batch([example, example])
    adapted(torch.randn(2, 6, 28, 28), batch.input_ids, batch.labels).loss.backward()
    torch.optim.AdamW(adapted.parameters(), lr=5e-4).step()
    policy.model = merge(adapted)


def test_a_released_folder_is_loaded_fine_tuned_saved_and_loaded(released: Path, tmp_path: Path) -> None:
    policy = load(released)
    before = _tensors(released)
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())
    _fine_tune(policy)
    save(tmp_path / "tuned", policy, max_shard_bytes=1_500_000)
    after = _tensors(tmp_path / "tuned")
    assert after.keys() == before.keys()  # nothing of the released files is lost, nothing is added
    assert not torch.equal(after["projector.fc1.weight"], before["projector.fc1.weight"])
    again = load(tmp_path / "tuned")
    expected = policy.model.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in again.model.state_dict().items())
    assert (again.model.spec, again.statistics) == (policy.model.spec, policy.statistics)


def test_a_saved_folder_has_the_files_of_the_released_one(released: Path, tmp_path: Path) -> None:
    save(tmp_path / "new", load(released), max_shard_bytes=2_000_000)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert {path.name for path in released.iterdir()} - set(SHARDS) <= names
    assert {"generation_config.json", "model-00001-of-00004.safetensors"} <= names
    index = json.loads((tmp_path / "new/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in _tensors(released).values())
    config = json.loads((tmp_path / "new/config.json").read_text())
    assert config["norm_stats"].keys() == {"pegs"} and "auto_map" not in config


def test_one_file_is_enough_for_a_small_model_and_half_precision_is_kept(policy: OpenVLA, tmp_path: Path) -> None:
    save(tmp_path / "small", policy, dtype=torch.float16)
    assert not (tmp_path / "small/model.safetensors.index.json").exists()
    files = [tmp_path / "small" / name for name in ("model.safetensors", "config.json")]
    assert len({file.stat().st_mode for file in files}) == 1  # who may read one may read the other
    loaded = load(tmp_path / "small")
    assert loaded.model.language_model.lm_head.weight.dtype == torch.float16
    full = load_model(tmp_path / "small", dtype=torch.float32).state_dict()
    expected = policy.model.state_dict()
    assert all(torch.equal(full[name], expected[name].half().float()) for name in full)


def test_saving_replaces_a_folder_whole_or_leaves_it(
    policy: OpenVLA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "policy"
    save(folder, policy)
    (folder / "old").touch()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            save(folder, policy)
    assert (folder / "old").exists() and load(folder)
    save(folder, policy)
    assert not (folder / "old").exists() and [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_an_adapter_must_be_merged_before_saving(policy: OpenVLA, tmp_path: Path) -> None:
    save(tmp_path / "a", policy)
    other = load(tmp_path / "a")
    add_adapter(other.model, rank=2)
    with pytest.raises(CheckpointError, match="merge it before saving"):
        save(tmp_path / "b", other)


def test_local_statistics_override_those_of_the_config(released: Path) -> None:
    assert read_config(released)[1].keys() == {"pegs"}
    (released / "dataset_statistics.json").unlink()
    assert read_config(released)[1].keys() == {"old"}


def test_a_folder_without_tokenizer_or_with_another_is_refused(
    released: Path, llama_like: Callable[[int], Tokenizer]
) -> None:
    llama_like(28705).save(str(released / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="has id 28705, must be 29871"):
        load(released)
    (released / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: cannot be read"):
        load(released)


def _rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


NAME = "projector.fc1.weight"


def _put(value: torch.Tensor) -> Callable[[Path], None]:
    """Replace a tensor, wherever it is."""

    def change(folder: Path) -> None:
        places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        _rewrite(folder / places[NAME], lambda tensors: tensors.update({NAME: value}))

    return change


def _drop(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    _rewrite(folder / data["weight_map"].pop(NAME), lambda tensors: tensors.pop(NAME))
    index.write_text(json.dumps(data))


def _list_elsewhere(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"][NAME] = next(name for name in SHARDS if name != data["weight_map"][NAME])
    index.write_text(json.dumps(data))


def _point(target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = folder / "model.safetensors.index.json"
        data = json.loads(index.read_text())
        data["weight_map"][NAME] = target
        index.write_text(json.dumps(data))

    return change


def _add(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["extra.weight"] = SHARDS[0]
    index.write_text(json.dumps(data))
    _rewrite(folder / SHARDS[0], lambda tensors: tensors.update({"extra.weight": torch.ones(2)}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / SHARDS[1]).unlink(), f"{SHARDS[1]}: no such file; copy all files"),
        (lambda f: (f / SHARDS[0]).write_bytes((f / SHARDS[0]).read_bytes()[:-10]), f"{SHARDS[0]}: is damaged"),
        (lambda folder: (folder / SHARDS[0]).write_bytes(b""), f"{SHARDS[0]}: is damaged"),
        (lambda folder: (folder / SHARDS[0]).write_bytes(b"\x80\x04pickle..." * 99), f"{SHARDS[0]}: is damaged"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "index.json: "),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "index.json: Expected `object`"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "model.safetensors: no such file"),
        (_point("../../etc/passwd"), r"'../../etc/passwd' must be the name of a .safetensors file in the folder"),
        (_point("/tmp/evil.safetensors"), r"must be the name of a .safetensors file in the folder"),
        (_list_elsewhere, "does not list what is in the shards"),
        (_drop, rf"{NAME} is missing \(1 such tensors\)"),
        (_add, "extra.weight is not expected"),
        (_put(torch.zeros(144, 35)), rf"{NAME} is F32\[144, 35\], must be \[144, 36\]"),
        (_put(torch.zeros(144, 36, dtype=torch.int32)), rf"{NAME} is I32"),
        (_put(torch.full((144, 36), torch.nan)), f"{NAME} is not finite"),
        (_put(torch.cat([torch.ones(1, 36) * torch.inf, torch.zeros(143, 36)])), f"{NAME} is not finite"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: Expected `object`"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text("{}"),
            "preprocessor_config.json: Object",
        ),
        (lambda folder: (folder / "dataset_statistics.json").write_text("x"), "dataset_statistics.json: "),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(
    released: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    spoil(released)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(released)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_loaded_only_unchecked(released: Path) -> None:
    _put(torch.full((144, 36), torch.nan))(released)
    assert load_model(released, check_finite=False).projector.fc1.weight.isnan().all()


def test_the_model_is_refused_before_memory_runs_out(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(tensor.numel() for tensor in _tensors(released).values())
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4 * size - 1)
    with pytest.raises(CheckpointError, match=r"the weights need 0.0 GB on cpu, 0.0 GB are free; end other programs"):
        load_model(released)
    assert load_model(released, dtype=torch.bfloat16).projector.fc1.weight.dtype == torch.bfloat16


def test_the_free_memory_of_this_machine_is_known() -> None:
    assert 1e6 < memory.free_bytes(torch.device("cpu")) < 1e14


def test_a_config_of_another_size_is_refused(released: Path, edit: Edit) -> None:
    data = json.loads((released / "config.json").read_text())
    edit(released / "config.json", text_config=data["text_config"] | {"hidden_size": 32})
    with pytest.raises(CheckpointError, match=r"must be \[.*the weights are of another model than config.json"):
        load_model(released)
