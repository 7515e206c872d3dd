"""The cell in which ``./rldg train --graph`` trains: launched, driven and listened to from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from std_msgs.msg import UInt8MultiArray

from rldg_bringup.running import running
from rldg_core.task import load_task
from rldg_core.types import Source
from rldg_ros import qos

if TYPE_CHECKING:
    from rldg_bringup.episode_runner_node import EpisodeRunner
    from rldg_rl.rollout import Episode
    from rldg_rl.train import OnEvent, Result

POLICY, PERSON = "specialist", "scripted_operator"
READY_TIMEOUT_S = 180.0
_ELSEWHERE_S = 1800.0  # for a person to go to the other machine
_ANSWER_S = 30.0


def train_in_graph(task: str, preset: str, run: Path, seed: int, learner: str, on_event: OnEvent) -> Result:
    """Launch ``train.launch.xml`` in lockstep and train until the stop rule is met; a run that is there goes on.

    Args:
        learner: ``here``, or ``elsewhere`` where somebody else launches it.

    Raises:
        DomainError: the ROS domain is not free.
        EncoderError: the preset looks at what observations do not carry.
        TrainingError, DivergenceError: see ``rldg_rl.graph.GraphTraining``.
        RuntimeError, TimeoutError: the cell refused, broke down or did not come up.
    """
    from rldg_rl.config import load_config
    from rldg_rl.graph import GraphTraining, begin

    run = run.absolute()
    loaded = load_task(task)
    config = load_config(preset, loaded.family)
    begin(loaded, config, run, seed, on_event)
    arguments = {"task": task, "preset": preset, "run": str(run), "seed": str(seed), "lockstep": "true"}
    arguments["learner"] = learner
    timeout_s = READY_TIMEOUT_S if learner == "here" else _ELSEWHERE_S
    with running("train", arguments, run / "log", timeout_s) as (_, runner):
        return GraphTraining(loaded, config, run, seed, Cell(runner), on_event).run()


class Cell:
    """A client of the cell; see ``rldg_rl.graph.TrainingCell``."""

    def __init__(self, runner: EpisodeRunner) -> None:
        self._runner = runner
        self._clients: dict[str, Any] = {}
        self._served: Path | None = None
        self.metrics: dict[str, float] = {}
        self.trouble = ""
        self.weights = b""
        runner.listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.reliable(100))
        runner.listen(UInt8MultiArray, "learner/weights", self._on_weights, qos.latched())

    def select(self, *, policy: bool) -> None:
        if policy:
            self._runner.select_policy_when_fresh(POLICY)
        else:
            self._runner.select_policy("")

    def serve(self, folder: Path | None) -> None:
        self._served = folder
        self._set(PERSON, "drive", folder is None)
        self._set(f"policy_{POLICY}", "serve", "" if folder is None else str(folder))

    def play(self, first_seed: int, count: int) -> list[Episode]:
        from rldg_rl.rollout import Episode

        played = []
        for seed in range(first_seed, first_seed + count):
            self._runner.wait_until_ready(READY_TIMEOUT_S)  # actor or learner may just be coming back
            if self._served is not None:
                self.serve(self._served)  # an actor that came back does not know
            (report,) = self._runner.run_episodes(1, seed)
            played.append(Episode(report.outcome, len(report.steps) - 1, report.sources[Source.HUMAN]))
        return played

    def wait(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        self._runner.spin_until(done, timeout_s, what)

    def _set(self, node: str, name: str, value: bool | str) -> None:
        """Set a parameter of a node. Raises RuntimeError, TimeoutError."""
        content = (
            ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
            if isinstance(value, bool)
            else ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        )
        service = f"{node}/set_parameters"
        if service not in self._clients:
            self._clients[service] = self._runner.node.create_client(SetParameters, service)
        client = self._clients[service]
        self._runner.spin_until(client.service_is_ready, _ANSWER_S, node)
        future = client.call_async(SetParameters.Request(parameters=[Parameter(name=name, value=content)]))
        self._runner.spin_until(future.done, _ANSWER_S, f"an answer of {node}")
        answer = future.result()
        if answer is None or not answer.results[0].successful:
            raise RuntimeError(f"{node}: {answer.results[0].reason if answer else 'no answer'}")

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name.endswith("learner: learning"):
                self.metrics = {pair.key: float(pair.value) for pair in status.values}
                self.trouble = status.message if status.level == DiagnosticStatus.ERROR else ""

    def _on_weights(self, msg: UInt8MultiArray) -> None:
        self.weights = bytes(msg.data)
