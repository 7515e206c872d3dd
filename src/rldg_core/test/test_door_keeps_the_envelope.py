"""Whatever comes in, the commanded target stays in the workspace and within the speed limits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.door import Door
from rldg_core.frames import Pose, exp_rotation, quaternion_multiply, rotation_angle
from rldg_core.safety import Envelope
from rldg_core.teleop import HumanCommand
from rldg_core.testing import TICK_NS, make_chunk, make_observation, make_task, running, tool_down
from rldg_core.types import Action, Source

TASKS = [
    make_task(),
    make_task(control={"setpoint": "leashed", "translation_scale_m": 0.05, "rotation_scale_rad": 0.3}),
]

element = st.one_of(st.floats(-1.5, 1.5), st.sampled_from([1e9, -1e9, np.nan, np.inf, -np.inf, 1e-30]))
deltas = st.lists(element, min_size=6, max_size=6).map(np.array)
events = st.fixed_dictionaries(
    {
        "who": st.sampled_from(["policy", "human", "nobody"]),
        "delta": deltas,
        "age_ticks": st.integers(0, 6),
        "lost": st.booleans(),
        "frame": st.sampled_from(["tcp", "base", ""]),
        "push": st.tuples(*[st.floats(-0.3, 0.3)] * 6),
        "wrench": st.floats(0.0, 200.0),
        "closed": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TASKS), st.lists(events, min_size=1, max_size=25))
def test_no_sequence_of_inputs_leaves_the_workspace_or_exceeds_the_speed(task, sequence):
    door, envelope = Door(task, "tcp"), Envelope(task.workspace)
    door.select("p", 0, require_fresh=False)
    pose, last, now_ns = tool_down(), None, 10 * TICK_NS
    for event in sequence:
        now_ns += TICK_NS
        # a person, a collision or a fault may put the arm anywhere
        shoved = Pose(
            pose.position + np.array(event["push"][:3]),
            quaternion_multiply(pose.quaternion, exp_rotation(event["push"][3:])),
        )
        observation = make_observation(
            now_ns - event["age_ticks"] * TICK_NS, shoved, wrench=np.full(6, event["wrench"])
        )
        if event["who"] == "policy":
            door.offer(make_chunk(event["delta"], now_ns - event["age_ticks"] * TICK_NS, frame_id=event["frame"]))
        human = HumanCommand()
        if event["who"] == "human":
            human = HumanCommand(active=True, action=Action(event["delta"], event["closed"]))
        step = door.tick(now_ns, None if event["lost"] else observation, running(now_ns), human, measured=shoved)
        if step is None:
            assert last is None
            continue
        assert envelope.contains(step.target, 1e-6)
        assert np.isfinite(step.executed.delta).all() and (np.abs(step.executed.delta) <= 1.0).all()
        if last is not None:
            limits = task.safety
            distance = np.linalg.norm(step.target.position - last.position)
            assert distance <= limits.max_linear_speed_m_s * task.control.period_s + 1e-9
            assert rotation_angle(step.target, last) <= limits.max_angular_speed_rad_s * task.control.period_s + 1e-6
        if step.source is Source.HOLD:
            assert (step.executed.delta == 0.0).all()
        last, pose = step.target, step.target


def test_an_arm_far_outside_its_workspace_is_not_commanded_until_it_is_back(task):
    door = Door(task, "tcp")
    assert door.tick(TICK_NS, make_observation(pose=tool_down(0.8)), running()) is None
    assert "outside the workspace" in door.trouble
    step = door.tick(2 * TICK_NS, make_observation(2 * TICK_NS, tool_down(0.59)), running(2 * TICK_NS))
    assert step is not None and door.trouble == ""
