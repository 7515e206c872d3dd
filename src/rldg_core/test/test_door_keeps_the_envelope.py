"""Whatever comes in, the commanded target stays in the workspace and within the speed limits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.bridge import Bridging, LateRule
from rldg_core.door import Door
from rldg_core.frames import Pose, exp_rotation, quaternion_multiply, rotation_angle
from rldg_core.safety import Envelope
from rldg_core.teleop import HumanCommand
from rldg_core.testing import TICK_NS, make_chunk, make_observation, make_task, running, tool_down
from rldg_core.types import Action, ActionChunk, Phase, Source

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


rows = st.lists(deltas, min_size=0, max_size=6).map(lambda found: np.array(found).reshape(-1, 6))
answers = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(["a", "b", "c"]),
        "rows": rows,
        "latency_s": st.sampled_from([0.0, 0.03, 0.15, 0.4, 1.0, 2.0]),
        "period_s": st.sampled_from([0.1, 0.05, 0.33, 1.0, 0.0, np.nan]),
        "frame": st.sampled_from(["tcp", "tcp", "tcp", "base"]),
        "ahead_ticks": st.sampled_from([0, 0, 0, 5, 200]),
    }
)
moments = st.fixed_dictionaries(
    {
        "answers": st.lists(answers, max_size=3),
        "swap": st.sampled_from([None, None, "a", "b", "c", "", "nobody"]),
        "human": st.one_of(st.none(), deltas),
        "push": st.tuples(*[st.floats(-0.02, 0.02)] * 6),
        "force_n": st.sampled_from([0.0, 0.0, 0.0, 70.0]),
        "seen": st.sampled_from([True, True, True, False]),
        "lost_ticks": st.sampled_from([0, 0, 0, 0, 1, 7]),
        "phase": st.sampled_from([Phase.RUNNING] * 8 + [Phase.IDLE, Phase.ENDED, Phase.RESETTING]),
    }
)
doors = st.builds(
    lambda task, late, ensemble, probation: Door(task, "tcp", Bridging(late, ensemble), probation),
    st.sampled_from(
        [
            make_task(safety={"retract_m": 0.005}),
            make_task(
                control={"setpoint": "leashed", "translation_scale_m": 0.05, "rotation_scale_rad": 0.3},
                safety={"max_linear_speed_m_s": 0.05, "max_angular_speed_rad_s": 0.4, "max_chunk_age_s": 0.6},
            ),
        ]
    ),
    st.sampled_from(list(LateRule)),
    st.sampled_from([0.0, 0.6, 1.0]),
    st.integers(1, 6),
)


@settings(max_examples=200, deadline=None)
@given(doors, st.lists(moments, min_size=5, max_size=40))
def test_no_sequence_of_chunks_swaps_and_delays_leaves_the_workspace_or_exceeds_the_speed(door, sequence):
    task, envelope = door._task, Envelope(door._task.workspace)
    limits, period_s = task.safety, task.control.period_s
    pose, last, now_ns, seen_ns = tool_down(), None, 10 * TICK_NS, 10 * TICK_NS
    under_way, newest = [], {}
    for moment in sequence:
        now_ns += TICK_NS * (1 + moment["lost_ticks"])
        seen_ns = now_ns if moment["seen"] else seen_ns
        for answer in moment["answers"]:
            chunk = ActionChunk(
                seen_ns + answer["ahead_ticks"] * TICK_NS,
                answer["policy"],
                answer["rows"],
                np.ones(len(answer["rows"]), bool),
                answer["period_s"],
                answer["frame"],
            )
            under_way.append((seen_ns + round(answer["latency_s"] * 1e9), chunk))
        for arrival_ns, chunk in under_way:
            if arrival_ns <= now_ns and door.offer(chunk, arrival_ns) == "":
                newest[chunk.policy_id] = max(newest.get(chunk.policy_id, 0), chunk.observation_stamp_ns)
        under_way = [entry for entry in under_way if entry[0] > now_ns]
        if moment["swap"] is not None:
            door.select(moment["swap"], now_ns)
        shoved = Pose(
            pose.position + np.array(moment["push"][:3]),
            quaternion_multiply(pose.quaternion, exp_rotation(moment["push"][3:])),
        )
        wrench = np.array([moment["force_n"], 0, 0, 0, 0, 0])
        human = HumanCommand()
        if moment["human"] is not None:
            human = HumanCommand(active=True, action=Action(moment["human"]))
        status = running(now_ns, phase=moment["phase"])
        step = door.tick(now_ns, make_observation(seen_ns, shoved, wrench=wrench), status, human, measured=shoved)
        door.take_events()
        assert door.selected in ("", "a", "b", "c") and door.proven in ("", "a", "b", "c")
        if step is None:
            last = None
            continue
        assert envelope.contains(step.target, 1e-6)
        assert np.isfinite(step.executed.delta).all() and (np.abs(step.executed.delta) <= 1.0).all()
        if last is not None and moment["phase"] is not Phase.RESETTING:
            moved_m = np.linalg.norm(step.target.position - last.position)
            assert moved_m <= limits.max_linear_speed_m_s * period_s + 1e-9
            assert rotation_angle(step.target, last) <= limits.max_angular_speed_rad_s * period_s + 1e-6
        if step.source is Source.POLICY:
            oldest_s = max(limits.max_action_age_s, limits.max_chunk_age_s)
            assert (now_ns - newest[step.policy_id]) * 1e-9 <= oldest_s + 1e-9
        # a reset in which nobody moves the arm lets the next target begin where the arm is
        last, pose = step.target, step.target


def test_an_arm_far_outside_its_workspace_is_not_commanded_until_it_is_back(task):
    door = Door(task, "tcp")
    assert door.tick(TICK_NS, make_observation(pose=tool_down(0.8)), running()) is None
    assert "outside the workspace" in door.trouble
    step = door.tick(2 * TICK_NS, make_observation(2 * TICK_NS, tool_down(0.59)), running(2 * TICK_NS))
    assert step is not None and door.trouble == ""
