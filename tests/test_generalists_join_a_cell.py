"""A generalist that is launched beside a running cell is brought up, selected and drives."""

from __future__ import annotations

from pathlib import Path

import pytest
from rldg_interfaces.msg import Step

from rldg_bringup.launch_runner import Launch
from rldg_bringup.testing import free_environment, running_cell
from rldg_bringup.up import launch_file
from rldg_core.task import load_task
from rldg_core.types import Source
from rldg_policies.generalist import GeneralistCard, write_card
from rldg_ros import qos
from rldg_ros.conversions import step_from_msg

USB = load_task("usb_insertion")
LOW, HIGH = [-1.0] * 7, [1.0] * 7
STATISTICS = {"set": {"action": {"mean": LOW, "std": HIGH, "min": LOW, "max": HIGH, "q01": LOW, "q99": HIGH}}}


def write_checkpoint(folder: Path, kind: str) -> None:
    """A tiny one with random weights."""
    folder.mkdir()
    if kind == "openvla":
        from rldg_policies.openvla import checkpoint
        from rldg_policies.openvla.model import make_random_model
        from rldg_policies.openvla.nano_vocabulary import nano_tokenizer
        from rldg_policies.openvla.policy import OpenVLA
        from rldg_policies.openvla.presets import preset
        from rldg_policies.openvla.prompt import PromptEncoder

        config = preset("openvla-test")
        policy = OpenVLA(make_random_model(config, 0), PromptEncoder(nano_tokenizer(), config), STATISTICS)
        checkpoint.write(folder, policy)
    else:
        from rldg_policies.octo import checkpoint as octo
        from rldg_policies.octo.model import OctoModel
        from rldg_policies.octo.presets import preset as octo_preset

        octo.write(
            folder, octo.Checkpoint(octo_preset("octo-test"), OctoModel(octo_preset("octo-test")).init(0), STATISTICS)
        )
    card = GeneralistCard(
        type=kind,  # type: ignore[arg-type]
        name="tiny",
        base="test",
        training_set="set",
        statistics_sha256="",
        rate_hz=USB.control.rate_hz,
        scale=tuple(USB.control.scale.tolist()),
        instructions=(USB.instruction,),
        steps=0,
        seed=0,
        held_out={},
    )
    write_card(folder, card)


@pytest.mark.long
@pytest.mark.timeout(240)  # torch and XLA take their time to start
@pytest.mark.parametrize(("kind", "option"), [("openvla", {"mode": "fast_int8"}), ("octo", {"execute": "2"})])
def test_it_drives_as_soon_as_it_answers(kind: str, option: dict[str, str], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", kind)
    driven: list[str] = []

    def on_step(message: Step) -> None:
        step = step_from_msg(message)
        if step.source is Source.POLICY:
            driven.append(step.policy_id)

    arguments = {"checkpoint": str(tmp_path / "checkpoint"), "policy_id": "student", **option}
    with running_cell(tmp_path / "cell", operator="none") as (_, runner):
        domain = str(runner.node.context.get_domain_id())
        environment = {**free_environment(), "ROS_DOMAIN_ID": domain}
        runner.listen(Step, "step", on_step, qos.reliable(50))
        file = launch_file(f"policy_{kind}")
        with Launch(file, arguments, environment, log_dir=tmp_path / "policy") as joined:
            runner.spin_until(
                lambda: any("policy 'student' drives" in line for line in joined.lines), 120.0, "the selection"
            )
            assert driven == []  # nothing moves between episodes
            runner.start_episodes(count=1)
            runner.spin_until(lambda: len(driven) > 5, 30.0, "a step of the policy")
    assert set(driven) == {"student"}
