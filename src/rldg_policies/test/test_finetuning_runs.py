"""Fine-tuning of whatever model: what is kept, runs that are taken up, and the comparison of what is served."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rldg_core.task import TaskError
from rldg_policies.finetuning import (
    FinetuneConfig,
    FinetuningError,
    Looked,
    Pick,
    action_figures,
    load_finetune_config,
    run_finetuning,
)
from rldg_policies.training_frames import FrameEpisode, TrainingFrames
from rldg_recorder.plan import DatasetError

CONFIG = FinetuneConfig(
    type="octo", base="none", steps=20, batch=4, evaluate_every=5, evaluation_frames=8, save_every=4
)


def frames(count: int = 4) -> TrainingFrames:
    image = np.zeros((8, 8, 3), np.uint8)
    episodes = [
        FrameEpisode([image] * 6, np.full((6, 7), number / 10, np.float32), "insert") for number in range(count)
    ]
    return TrainingFrames("set", 10.0, (1.0,) * 6, tuple(episodes[1:]), tuple(episodes[:1]), {"set": {}})


class Counter:
    """A model of one number, which each step moves by what the frames drawn say."""

    def __init__(self, stop_at: int = -1, worse_after: int = 1000, served: float = 0.5) -> None:
        self.value = np.zeros(1)
        self.best = np.zeros(1)
        self.steps, self._stop_at, self._worse_after, self._served = 0, stop_at, worse_after, served

    def step(self, picks: list[Pick], number: int) -> dict[str, float]:
        if number == self._stop_at:
            raise KeyboardInterrupt
        self.steps = number + 1
        self.value = self.value + sum(pick.episode * 7 + pick.frame for pick in picks) * (number + 1)
        return {"loss": 1.0 / (number + 1)}

    def evaluate(self, picks: list[Pick]) -> dict[str, float]:
        return {"accuracy": min(self.steps, 2 * self._worse_after - self.steps) / 100, "l1": 0.1}

    def acceptance(self, folder: Path, picks: list[Pick]) -> tuple[float, float]:
        assert (folder / "weights").read_text() == str(self.best[0])
        return 0.5, self._served

    def snapshot(self) -> None:
        self.best = self.value.copy()

    def write(self, draft: Path, steps: int, held_out: dict[str, float]) -> None:
        (draft / "weights").write_text(str(self.best[0]))

    def state(self) -> dict[str, np.ndarray]:
        return {"value": self.value, "best": self.best, "steps": np.array(self.steps)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self.value, self.best, self.steps = state["value"], state["best"], int(state["steps"])


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "made"


@pytest.mark.parametrize(("patience", "kept"), [(0, 20), (3, 10)])
def test_the_last_weights_are_written_and_with_patience_the_best(out: Path, patience: int, kept: int) -> None:
    looks: list[Looked] = []
    finished = run_finetuning(
        Counter(worse_after=10),
        msgspec.structs.replace(CONFIG, patience=patience),
        frames(),
        out,
        0,
        lambda event: looks.append(event) if isinstance(event, Looked) else None,
    )
    assert [(look.step, look.best) for look in looks] == [(step, step <= kept) for step in (0, 5, 10, 15, 20)]
    assert (finished.step, finished.steps, finished.stopped) == (kept, 20, "steps")
    assert (out / "weights").is_file() and not out.with_name(".made.partial").exists()


def test_a_run_without_progress_stops_early(out: Path) -> None:
    config = msgspec.structs.replace(CONFIG, patience=1)
    finished = run_finetuning(Counter(worse_after=10), config, frames(), out, 0)
    assert (finished.step, finished.steps, finished.stopped) == (10, 15, "patience")


@pytest.mark.parametrize("stop_at", [1, 6, 13])
def test_a_run_that_was_stopped_and_taken_up_equals_one_that_was_not(tmp_path: Path, stop_at: int) -> None:
    whole = run_finetuning(Counter(), CONFIG, frames(), tmp_path / "whole", 0)
    with pytest.raises(KeyboardInterrupt):
        run_finetuning(Counter(stop_at), CONFIG, frames(), tmp_path / "made", 0)
    assert not (tmp_path / "made").exists()
    again = Counter()
    finished = run_finetuning(again, CONFIG, frames(), tmp_path / "made", 0)
    assert replace(finished, checkpoint="", wall_s=0.0, cpu_s=0.0) == replace(
        whole, checkpoint="", wall_s=0.0, cpu_s=0.0
    )
    assert (tmp_path / "made" / "weights").read_bytes() == (tmp_path / "whole" / "weights").read_bytes()


def test_what_another_run_left_is_not_taken_up(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_finetuning(Counter(stop_at=6), CONFIG, frames(), out, 0)
    with pytest.raises(FinetuningError, match="another configuration, training set or seed"):
        run_finetuning(Counter(), CONFIG, frames(), out, 1)


def test_a_damaged_state_is_refused(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_finetuning(Counter(stop_at=6), CONFIG, frames(), out, 0)
    (state,) = out.with_name(".made.partial").glob("shards/*.npz")
    state.write_bytes(state.read_bytes()[:40])
    with pytest.raises(FinetuningError, match=r"cannot be read.*remove"):
        run_finetuning(Counter(), CONFIG, frames(), out, 0)


def test_a_folder_that_is_there_is_not_replaced(out: Path) -> None:
    out.mkdir()
    with pytest.raises(DatasetError, match="exists already"):
        run_finetuning(Counter(), CONFIG, frames(), out, 0)


def test_what_is_served_must_be_what_was_trained(out: Path) -> None:
    with pytest.raises(FinetuningError, match=r"serving path reaches 0.400 on training frames, the trainer 0.500"):
        run_finetuning(Counter(served=0.4), CONFIG, frames(), out, 0)
    assert not out.exists()


def test_a_loss_that_is_not_finite_ends_the_run(out: Path) -> None:
    class Diverging(Counter):
        def step(self, picks: list[Pick], number: int) -> dict[str, float]:
            return {"loss": float("nan")}

    with pytest.raises(FinetuningError, match="step 0: the loss is not finite; lower learning_rate"):
        run_finetuning(Diverging(), CONFIG, frames(), out, 0)


def test_figures_count_what_is_close_enough_and_how_far_the_rest_is() -> None:
    figures = action_figures(np.array([[0.0, 0.5], [1.0, 0.05]]), np.array([[0.05, 0.5], [0.0, 0.0]]))
    assert figures["accuracy"] == 0.75 and figures["l1"] == pytest.approx(0.275)


def test_the_configurations_that_ship_can_be_read() -> None:
    for name in ("openvla_nano", "openvla_7b", "octo_nano", "octo_small"):
        assert load_finetune_config(name).type in name


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("stepps: 3", "unknown field `stepps`"),
        ("steps: 0", "steps: Expected `int` >= 1"),
        ("warmup_steps: 5000", "warmup_steps: is 5000, must be below steps"),
        ("lora: {rank: 4}", "lora: is for type openvla"),
        ("type: pi0", "type: Invalid enum value"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: octo-nano\n{line}\n" + ("" if line.startswith("type") else "type: octo\n"))
    with pytest.raises(TaskError, match=words) as refused:
        load_finetune_config(path)
    assert "\n" not in str(refused.value)


def test_a_configuration_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(TaskError, match="octo_nano, octo_small, openvla_7b, openvla_nano"):
        load_finetune_config("fast")
