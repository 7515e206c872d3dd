"""The learner keeps its pace, survives being stopped anywhere, and says when it has gone wrong."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest

from rldg_rl import checkpoint
from rldg_rl.checkpoint import CheckpointError, TransitionLog, load_weights, save_weights
from rldg_rl.config import Encoder, TrainingConfig
from rldg_rl.learner import CHECKPOINT_FILE, LOG_FILE, DivergenceError, Learner
from rldg_rl.networks import Spec
from rldg_rl.replay import ReplayError, Transition

CONFIG = TrainingConfig(encoder=Encoder.STATE, hidden=(8,), batch=8, utd=2, warmup_steps=5, demos=1, replay_capacity=60)
SPEC = Spec(features=3)


def episode(name: str, length: int = 10, **fields: bool) -> list[Transition]:
    rng = np.random.default_rng(sum(name.encode()))
    frames = rng.normal(size=(length + 1, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (length, 6))
    return [
        Transition(
            episode_id=name,
            t=t,
            features=frames[t],
            next_features=frames[t + 1],
            action=actions[t],
            reward=float(t == length - 1),
            terminated=t == length - 1,
            truncated=False,
            intervention=fields.get("intervention", False),
            demo=fields.get("demo", False),
        )
        for t in range(length)
    ]


def train(learner: Learner, names: list[str]) -> None:
    """As a run does: a step of the environment, then the updates it allows."""
    for name in names:
        for transition in episode(name, intervention=name.endswith("5")):
            learner.act(transition.features)
            learner.add([transition])
            while learner.step():
                pass


def everything(learner: Learner) -> list[bytes]:
    """All that decides what happens next, bit for bit."""
    drawn = learner.replay.sample(np.random.default_rng(1), 3, 64)
    arrays = [*jax.tree.leaves(learner._state), *drawn, learner.act(np.ones(3, np.float32))]
    return [np.asarray(array).tobytes() for array in arrays] + [str(learner._rng.bit_generator.state).encode()]


# --- the governor ----------------------------------------------------------------------------------------------------


def test_no_update_before_warm_up_and_a_successful_demonstration() -> None:
    learner = Learner(CONFIG, SPEC, 0)
    assert learner.waiting_for == "5 more environment steps"
    learner.add(episode("a")[:7])
    assert learner.waiting_for == "a successful demonstration"
    assert not learner.step()
    learner.add(episode("d", demo=True))
    assert learner.step()


def test_updates_keep_the_ratio_to_environment_steps_and_then_wait() -> None:
    learner = Learner(CONFIG, SPEC, 0)
    learner.add(episode("d", demo=True))
    train(learner, ["a", "b"])
    assert not learner.step()
    assert learner.waiting_for == "the next environment step"
    figures = learner.metrics()
    assert (figures["utd"], figures["updates"], figures["env_steps"]) == (2.0, 40.0, 20.0)


def test_transitions_that_come_twice_allow_no_more_updates() -> None:
    learner = Learner(CONFIG, SPEC, 0)
    learner.add(episode("d", demo=True))
    assert learner.add(episode("a")) == 10
    assert learner.add(episode("a")) == 0
    while learner.step():
        pass
    assert learner.updates == 20


def test_a_malformed_transition_is_refused_and_not_logged(tmp_path) -> None:
    learner = Learner(CONFIG, SPEC, 0, tmp_path)
    good, bad = episode("a")[:2]
    with pytest.raises(ReplayError, match="action"):
        learner.add([good, bad._replace(action=np.full(6, 2.0))])
    assert len(list(TransitionLog(tmp_path / LOG_FILE, SPEC, 1).entries())) == 1


# --- divergence ------------------------------------------------------------------------------------------------------


def test_rewards_out_of_all_proportion_stop_the_training_with_the_reason() -> None:
    learner = Learner(CONFIG, SPEC, 0)
    learner.add(episode("d", demo=True))
    learner.add(step._replace(reward=1e4) for step in episode("a", 3000))
    with pytest.raises(DivergenceError, match=r"Q lies in .* must stay in \[-0.5, 1.5\]"):
        while learner.step():
            pass


def test_a_value_that_is_not_finite_stops_the_training_at_the_next_look() -> None:
    learner = Learner(CONFIG, SPEC, 0)
    learner.add(episode("d", demo=True))
    learner.add(step._replace(reward=3e38) for step in episode("a"))
    learner.step()
    with pytest.raises(DivergenceError, match="critic_loss is not finite"):
        learner.metrics()


# --- survival --------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run that was never interrupted, and its folder as it was in the middle."""

    end: list[bytes]
    names: list[str]
    folder: Path


@pytest.fixture
def run(tmp_path) -> Run:
    names = [f"e{i}" for i in range(10)]  # more steps than the replay holds
    learner = Learner(CONFIG, SPEC, 3, tmp_path)
    learner.add(episode("d", demo=True))
    train(learner, names[:7])
    learner.relabel("e6", 9, 0.0, True)
    learner.save({"episode": 7})
    middle = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    train(learner, names[7:])
    end = everything(learner)
    learner.close()
    folder = tmp_path / "resumed"
    folder.mkdir()
    for name, content in middle.items():
        (folder / name).write_bytes(content)
    return Run(end, names, folder)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(run) -> None:
    learner = Learner(CONFIG, SPEC, 99, run.folder)
    assert learner.restore() == {"episode": 7}
    train(learner, run.names[7:])
    assert everything(learner) == run.end


def test_what_came_after_the_checkpoint_can_be_forgotten_to_equal_an_uninterrupted_run(run) -> None:
    learner = Learner(CONFIG, SPEC, 99, run.folder)
    learner.restore()
    train(learner, run.names[7:9])  # without a checkpoint
    learner.close()
    again = Learner(CONFIG, SPEC, 98, run.folder)
    again.restore(drop_tail=True)
    train(again, run.names[7:])
    assert everything(again) == run.end


def test_what_came_after_the_checkpoint_is_kept_and_learned_from(run) -> None:
    learner = Learner(CONFIG, SPEC, 99, run.folder)
    learner.restore()
    learner.add(episode("late"))
    learner.close()
    again = Learner(CONFIG, SPEC, 99, run.folder)
    again.restore()
    assert again.add(episode("late")) == 0
    assert again.waiting_for == ""
    assert again.replay.env_steps == 80


def test_without_a_checkpoint_the_replay_comes_back_from_the_log(run) -> None:
    (run.folder / CHECKPOINT_FILE).unlink()
    learner = Learner(CONFIG, SPEC, 3, run.folder)
    assert learner.restore() == {}
    assert (learner.replay.env_steps, learner.updates) == (70, 0)


def test_a_record_that_was_cut_short_is_dropped(run) -> None:
    log = run.folder / LOG_FILE
    whole = log.stat().st_size
    learner = Learner(CONFIG, SPEC, 3, run.folder)
    learner.restore()
    learner.add(episode("late")[:1])
    learner.close()
    for size in range(whole + 1, log.stat().st_size, 7):
        copy = run.folder / "cut.log"
        copy.write_bytes(log.read_bytes()[:size])
        cut = TransitionLog(copy, SPEC, 1)
        assert cut.size == whole
        cut.close()


def test_a_learner_that_is_killed_at_any_moment_loses_no_transition_that_it_took(tmp_path) -> None:
    script = """
        import sys
        from pathlib import Path
        sys.path.insert(0, {here!r})
        from test_learner import CONFIG, SPEC, episode
        from rldg_rl.learner import Learner
        learner = Learner(CONFIG, SPEC, 0, Path({folder!r}))
        for i in range(100000):
            for transition in episode(str(i)):
                learner.add([transition])
                print(transition.episode_id, transition.t, flush=True)
    """
    code = textwrap.dedent(script.format(here=str(Path(__file__).parent), folder=str(tmp_path / "run")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    taken = [process.stdout.readline().split() for _ in range(57)]
    process.send_signal(signal.SIGKILL)
    taken += [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    log = TransitionLog(tmp_path / "run" / LOG_FILE, SPEC, 1)
    found = [(entry.episode_id, entry.t) for entry in log.entries()]
    assert len(set(found)) == len(found)
    assert {(episode_id, int(t)) for episode_id, t in taken} <= set(found)


def test_a_folder_with_another_run_is_not_written_over(run) -> None:
    learner = Learner(CONFIG, SPEC, 0, run.folder)
    before = (run.folder / LOG_FILE).read_bytes()
    with pytest.raises(CheckpointError, match="another run"):
        learner.add(episode("x"))
    with pytest.raises(CheckpointError, match="another run"):
        learner.save()
    assert (run.folder / LOG_FILE).read_bytes() == before


def test_two_learners_do_not_write_into_one_folder(tmp_path) -> None:
    learner = Learner(CONFIG, SPEC, 0, tmp_path)
    with pytest.raises(CheckpointError, match="another learner writes here"):
        Learner(CONFIG, SPEC, 0, tmp_path)
    learner.close()
    Learner(CONFIG, SPEC, 0, tmp_path).close()


def test_an_empty_folder_has_nothing_to_restore(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="nothing to restore"):
        Learner(CONFIG, SPEC, 0, tmp_path).restore()


def test_a_learner_without_a_folder_cannot_save() -> None:
    with pytest.raises(CheckpointError, match="give it a folder"):
        Learner(CONFIG, SPEC, 0).save()


def test_a_kill_during_a_checkpoint_leaves_the_one_before(run, monkeypatch) -> None:
    before = (run.folder / CHECKPOINT_FILE).read_bytes()
    learner = Learner(CONFIG, SPEC, 0, run.folder)
    learner.restore()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        learner.save()
    assert (run.folder / CHECKPOINT_FILE).read_bytes() == before


# --- damaged and foreign files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_checkpoint_that_is_cut_short_is_refused(run, share) -> None:
    path = run.folder / CHECKPOINT_FILE
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"is damaged: .*; use another checkpoint") as refused:
        Learner(CONFIG, SPEC, 0, run.folder).restore()
    assert "\n" not in str(refused.value)


def test_a_checkpoint_with_a_flipped_bit_is_refused(run) -> None:
    path = run.folder / CHECKPOINT_FILE
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        Learner(CONFIG, SPEC, 0, run.folder).restore()


def test_a_pickle_in_place_of_a_checkpoint_is_not_executed(run) -> None:
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (run.folder / "owned",))

    np.savez(run.folder / CHECKPOINT_FILE, about=np.array([Hostile()], dtype=object))
    with pytest.raises(CheckpointError, match="is damaged"):
        Learner(CONFIG, SPEC, 0, run.folder).restore()
    assert not (run.folder / "owned").exists()


def test_a_checkpoint_of_other_networks_is_refused(run) -> None:
    other = TrainingConfig(encoder=Encoder.STATE, hidden=(9,), batch=8, utd=2, replay_capacity=60)
    with pytest.raises(CheckpointError, match="use the preset it had"):
        Learner(other, SPEC, 0, run.folder).restore()


def test_a_log_that_lost_its_end_is_refused(run) -> None:
    log = run.folder / LOG_FILE
    log.write_bytes(log.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"the checkpoint needs \d+"):
        Learner(CONFIG, SPEC, 0, run.folder).restore()


def test_a_log_that_is_damaged_in_the_middle_is_refused(run) -> None:
    log = run.folder / LOG_FILE
    content = bytearray(log.read_bytes())
    content[len(content) // 4] ^= 0xFF
    log.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged at byte \d+"):
        Learner(CONFIG, SPEC, 0, run.folder).restore()


def test_a_full_disk_is_no_transition_taken_and_leaves_the_log_whole(tmp_path) -> None:
    learner = Learner(CONFIG, SPEC, 0, tmp_path)
    first, second = episode("a")[:2]
    learner.add([first])
    size = (tmp_path / LOG_FILE).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            learner.add([second])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert learner.add([second]) == 1
    assert [entry.t for entry in TransitionLog(tmp_path / LOG_FILE, SPEC, 1).entries()] == [0, 1]


@pytest.mark.parametrize("content", [b"not a log", os.urandom(4000), b"\x01\x00\x00\x00\x00\x00\x00\x00x"])
def test_a_file_that_is_no_log_is_refused_and_left_alone(tmp_path, content) -> None:
    (tmp_path / LOG_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"log of transitions|damaged"):
        Learner(CONFIG, SPEC, 0, tmp_path)
    assert (tmp_path / LOG_FILE).read_bytes() == content


def test_a_log_of_other_features_is_refused(run) -> None:
    with pytest.raises(CheckpointError, match="is not a log of transitions with Spec"):
        Learner(CONFIG, Spec(features=4), 0, run.folder)


# --- weights ---------------------------------------------------------------------------------------------------------


def test_saved_weights_act_as_the_learner_does_but_for_the_averaging(tmp_path) -> None:
    from rldg_rl import rlpd

    at_once = msgspec.structs.replace(CONFIG, average_tau=1.0)
    learner = Learner(at_once, SPEC, 0)
    learner.add(episode("d", demo=True))
    train(learner, ["a"])
    save_weights(tmp_path / "weights.npz", learner.weights(), at_once, SPEC)
    weights, config, spec = load_weights(tmp_path / "weights.npz")
    assert (weights.version, config, spec) == (20, at_once, SPEC)
    features = np.ones(3, np.float32)
    action = rlpd.act(weights.params, features, jax.random.key(0), deterministic=True, config=config, spec=spec)
    np.testing.assert_array_equal(action, learner.act(features, deterministic=True))


def test_weights_are_a_copy_that_later_updates_leave_alone() -> None:
    learner = Learner(CONFIG, SPEC, 0)
    learner.add(episode("d", demo=True))
    train(learner, ["a"])
    weights = learner.weights()
    before = [leaf.tobytes() for leaf in jax.tree.leaves(weights.params)]
    train(learner, ["b"])
    assert [leaf.tobytes() for leaf in jax.tree.leaves(weights.params)] == before
    assert learner.weights().version > weights.version


def test_a_checkpoint_is_not_taken_for_weights(run) -> None:
    with pytest.raises(CheckpointError, match="not weights of a specialist"):
        load_weights(run.folder / CHECKPOINT_FILE)


def test_weights_that_are_missing_say_so(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(tmp_path / "weights.npz")
