"""How a trial failed is read from what was measured and where things were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rldg_core.frames import Pose
from rldg_core.task import load_task
from rldg_core.testing import make_observation, tool_down
from rldg_core.types import Action, Change, Outcome, Source, Step
from rldg_evaluation.trace import Failure, Trace, Tracer, failure_mode

PLUG, PEPPER = load_task("usb_insertion"), load_task("pick_and_place")
N = 40


def trace(distance_m: float = 0.1, **changes: object) -> Trace:
    """An arm that stands still in free space."""
    away = np.tile([0.0, 0.0, -distance_m], (N + 1, 1))
    columns: dict[str, object] = {
        "tcp_m": -away,
        "object_m": np.zeros((0, 3)),
        "to_goal_m": away,
        "wrench": np.zeros((N + 1, 6)),
        "gripper_closed": np.ones(N + 1, bool),
        "source": np.full(N, int(Source.POLICY), np.uint8),
        "changed": np.zeros(N, np.uint32),
        "executed": np.zeros((N, 6)),
    }
    return Trace(**{**columns, **changes})  # type: ignore[arg-type]


def pressing(newtons: float, rows: slice = slice(None)) -> np.ndarray:
    wrench = np.zeros((N + 1, 6))
    wrench[rows, 2] = -newtons
    return wrench


def moving(step_m: float) -> np.ndarray:
    return np.linspace([0.0, 0.0, 0.1], [step_m * N, 0.0, 0.1], N + 1)


def at(rows: slice, change: Change, source: Source = Source.HOLD) -> dict[str, np.ndarray]:
    columns = {"changed": np.zeros(N, np.uint32), "source": np.full(N, int(Source.POLICY), np.uint8)}
    columns["changed"][rows], columns["source"][rows] = int(change), int(source)
    return columns


PLUG_CASES = {
    "still and far": (trace(), Failure.FAR),
    "still and near": (trace(0.015), Failure.NEAR),
    "near once, far at the end": (trace(to_goal_m=np.linspace([0, 0, 0.0], [0, 0, 0.2], N + 1)), Failure.FAR),
    "pressing without moving": (trace(wrench=pressing(9.0)), Failure.STUCK),
    "pressing and moving": (trace(wrench=pressing(9.0), tcp_m=moving(0.001)), Failure.SEARCHED),
    "carrying, not pressing": (trace(wrench=pressing(2.0)), Failure.FAR),
    "pressed at the beginning only": (trace(wrench=pressing(9.0, slice(0, 20))), Failure.FAR),
    "guarded at the end": (
        trace(wrench=pressing(60.0), **at(slice(35, None), Change.FORCE_GUARD)),
        Failure.SAFETY_STOP,
    ),
    "guarded long before": (trace(**at(slice(2, 5), Change.FORCE_GUARD)), Failure.FAR),
    "refused for most of the time": (trace(**at(slice(10, None), Change.REFUSED)), Failure.NO_ANSWER),
    "refused for a while": (trace(**at(slice(0, 10), Change.REFUSED)), Failure.FAR),
    "a refused device of a person who drives": (trace(**at(slice(None), Change.REFUSED, Source.HUMAN)), Failure.FAR),
}


@pytest.mark.parametrize("case", PLUG_CASES)
def test_insertions_fail_as_they_look(case) -> None:
    played, expected = PLUG_CASES[case]
    assert failure_mode(PLUG, played, Outcome.TIMEOUT) is expected


def carried(path: list[tuple[int, float, float]], closed: slice, tcp_end_m: float = 0.05) -> Trace:
    """An object at given heights and distances from the TCP, by row at which they begin."""
    object_m, tcp_m = np.zeros((N + 1, 3)), np.zeros((N + 1, 3))
    for row, height, apart in path:
        object_m[row:] = [0.0, 0.0, height]
        tcp_m[row:] = [0.0, 0.0, height + apart]
    tcp_m[-1, 2] = max(tcp_m[-1, 2], tcp_end_m)
    grip = np.zeros(N + 1, bool)
    grip[closed] = True
    return trace(object_m=object_m, tcp_m=tcp_m, gripper_closed=grip, to_goal_m=object_m - [0.3, 0.0, 0.0])


PEPPER_CASES = {
    "hovers": (carried([(0, 0.0, 0.2)], slice(0, 0)), Failure.NO_GRASP),
    "closes beside it": (carried([(0, 0.0, 0.2)], slice(10, 20)), Failure.MISSED_GRASP),
    "holds it to the end": (carried([(0, 0.0, 0.01), (10, 0.1, 0.01)], slice(8, None)), Failure.FAR),
    "opens over the table": (
        carried([(0, 0, 0.01), (10, 0.1, 0.01), (20, 0.0, 0.15)], slice(8, 20)),
        Failure.EARLY_DROP,
    ),
    "loses it with closed fingers": (
        carried([(0, 0.0, 0.01), (10, 0.1, 0.01), (20, 0.0, 0.15)], slice(8, None)),
        Failure.EARLY_DROP,
    ),
}


@pytest.mark.parametrize("case", PEPPER_CASES)
def test_grasps_fail_as_they_look(case) -> None:
    played, expected = PEPPER_CASES[case]
    assert failure_mode(PEPPER, played, Outcome.TIMEOUT) is expected


def test_a_success_has_no_failure_and_verdicts_come_before_geometry() -> None:
    played = trace(wrench=pressing(9.0))
    assert failure_mode(PLUG, played, Outcome.SUCCESS) is Failure.NONE
    assert failure_mode(PLUG, played, Outcome.FAILURE) is Failure.LABELLED
    assert failure_mode(PLUG, played, Outcome.ABORTED) is Failure.ABORTED


def test_an_episode_of_one_step_has_a_mode_too() -> None:
    one = Trace(*(column[:1] if len(column) == N else column[:2] for column in vars(trace()).values()))
    assert failure_mode(PLUG, one, Outcome.TIMEOUT) is Failure.FAR


def test_a_trace_says_positions_in_the_fixture_frame_and_survives_the_disk(tmp_path: Path) -> None:
    tracer = Tracer(PLUG)
    fixture = Pose.from_rpy((0.5, 0.1, 0.02), (0.0, 0.0, np.pi / 2))
    goal = fixture @ PLUG.success.goal.pose()
    for pose in (tool_down(0.5, 0.2, 0.05), goal):
        tracer.see(make_observation(pose=pose), fixture, None)
    tracer.do(Step(0, 0, Source.POLICY, Action(np.full(6, 0.25)), goal, changed=Change.SPEED))
    played = tracer.trace()
    np.testing.assert_allclose(played.tcp_m[0], [0.1, 0.0, 0.03], atol=1e-12)
    np.testing.assert_allclose(played.distance_m[1], 0.0, atol=1e-12)
    assert played.object_m.shape == (0, 3) and played.executed.shape == (1, 6)
    played.save(tmp_path / "a.npz")
    again = Trace.load(tmp_path / "a.npz")
    for name, column in vars(played).items():
        np.testing.assert_array_equal(getattr(again, name), column)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("text", [b"", b"PK\x03\x04 cut off", b"nothing of the kind"])
def test_a_damaged_trace_is_refused_in_one_line(text, tmp_path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read"):
        Trace.load(path)
    trace().save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"a\.npz: cannot be read"):
        Trace.load(path)
    trace(executed=np.zeros((3, 6))).save(path)
    with pytest.raises(ValueError, match=r"a\.npz: executed: has shape \(3, 6\), must be \(40, 6\)"):
        Trace.load(path)
    with pytest.raises(ValueError, match="No such file"):
        Trace.load(tmp_path / "b.npz")


def test_the_object_is_the_subject_where_the_rule_says_so() -> None:
    tracer = Tracer(PEPPER)
    fixture = Pose.from_rpy((0.5, 0.16, 0.0), (0.0, 0.0, 0.0))
    tracer.see(make_observation(), fixture, Pose.from_rpy((0.5, 0.16, 0.03), (0.0, 0.0, 0.0)))
    tracer.do(replace(Step(0, 0, Source.HOLD, Action(np.zeros(6)), fixture)))
    assert tracer.trace().distance_m[0] == pytest.approx(0.0)
