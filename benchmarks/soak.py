"""A cell over a long time, with episodes, swaps, faults and recoveries: what leaks, what hangs, which ticks are missed.

Real time, recorded. Policies are swapped among at random; one of them fails on probation in every way it can; nodes
are killed; policies join and leave; the e-stop is latched and released. After each of these a policy must drive again.
Every few seconds memory, descriptors and threads of every process become lines of ``--out``. Whether one grows is told
by a slope over the time after its warm-up, fitted so that single samples do not matter (Theil-Sen), and never by the
first sample against the last.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rldg_bringup.domain import lease_domain
from rldg_bringup.launch_runner import Launch
from rldg_bringup.shared_memory import remove_abandoned
from rldg_bringup.swap import policy_launch
from rldg_bringup.up import launch_file
from rldg_core.events import Event, EventKind, parse_event
from rldg_core.task import Task, load_task
from rldg_core.types import Source, Step

if TYPE_CHECKING:
    from _processes import Growth, Sample  # type: ignore[import-not-found, unused-ignore]

    from rldg_bringup.episode_runner_node import EpisodeRunner

DEFAULT_POLICIES = ["a=scripted", "b=scripted"]
WEAK, GUEST = "weak", "guest"
FAULTS = ("nan", "shape", "raise", "hang", "late 0.5", "late 1", "late 2", "crash", "stop")
KILLED = ("observer", "episode_manager", "cartesian_impedance_controller", "recorder")
READY_S = 120.0
RECOVER_S = 90.0  # after this long without a policy that drives it is a hang
WARM_UP_SHARE, MOST_WARM_UP_S = 0.3, 600.0
EARLY = 40  # steps of an episode after which no swap is begun whose probation should end in it
BAGS_KEPT = 3
_MAX_HANGS = 3


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    from _policies import FORM, parse  # type: ignore[import-not-found, unused-ignore]

    parser = argparse.ArgumentParser(prog="rldg bench soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: %(default)s)")
    parser.add_argument("--task", default="usb_insertion")
    parser.add_argument("--policies", nargs="+", default=DEFAULT_POLICIES, metavar=FORM, help="(default: two scripted)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"), help="samples, logs beside (%(default)s)")
    options = parser.parse_args(argv)
    policies = [parse(text) for text in options.policies]
    ids = {policy_id for policy_id, _, _ in policies}
    if len(ids) < 2 or len(ids) < len(policies) or ids & {WEAK, GUEST}:
        parser.error(f"--policies: at least two, with different ids, none of them {WEAK} or {GUEST}")
    if not options.minutes > 0.0 or not options.every > 0.0:
        parser.error("--minutes and --every: must be positive")
    with tempfile.TemporaryDirectory(prefix="rldg-soak-") as name, ExitStack() as stack:
        folder, logs = Path(name), options.out.with_suffix(".logs").absolute()
        lease = lease_domain("bench soak")
        if lease is not None:
            stack.enter_context(lease)
            os.environ["ROS_DOMAIN_ID"] = str(lease.domain)
        arguments = {"task": options.task, "operator": "none", "record": "true", "bags": str(folder / "bags")}
        cell = stack.enter_context(Launch(launch_file("cell"), arguments, log_dir=logs / "cell"))
        launches = [cell]
        orders = folder / "orders"
        for policy_id, policy, checkpoint in [*policies, (WEAK, "faulty", "")]:
            file, arguments = policy_launch(policy, policy_id, checkpoint)
            arguments["task"] = options.task
            if policy_id == WEAK:
                arguments["policy_parameters"] = f'{{orders: "{orders}"}}'
            launches.append(stack.enter_context(Launch(launch_file(file), arguments, log_dir=logs / policy_id)))
        from rldg_bringup.episode_runner_node import EpisodeRunner

        with EpisodeRunner(follow=False) as runner, options.out.open("w") as out:
            soak = Soak(runner, launches, sorted(ids), orders, folder, load_task(options.task), options.seed)
            soak.run(60.0 * options.minutes, options.every, out)
            return soak.figures()


class Soak:
    """What happens in the cell, and what it does to it.

    Args:
        launches: that of the cell, those of the policies, and last that of the weak one.
        ids: of the policies that do not fail.
        orders: file that the weak policy obeys.
    """

    def __init__(
        self,
        runner: EpisodeRunner,
        launches: list[Launch],
        ids: list[str],
        orders: Path,
        folder: Path,
        task: Task,
        seed: int,
    ) -> None:
        from rldg_interfaces.msg import Step as StepMsg
        from std_msgs.msg import String

        from rldg_ros import qos
        from rldg_ros.conversions import step_from_msg

        self._runner, self._launches, self._ids, self._orders, self._folder = runner, launches, ids, orders, folder
        self._task, self._rng = task, np.random.default_rng(seed)
        self._period_ns = round(task.control.period_s * 1e9)
        self._lead_ns = round(task.control.observation_lead_s * 1e9)
        self.step: Step | None = None
        self.events: deque[Event] = deque(maxlen=100)
        self.told: Counter[str] = Counter()  # events by kind, episodes, acts, missed ticks, ...
        self.rollback_s: list[float] = []
        self.samples: list[Sample] = []
        self.growth: list[Growth] = []
        self._run: Any = None  # future of the run of episodes
        self._guests = 0
        self._acts: dict[str, tuple[float, Callable[[], None]]] = {
            "swap": (0.55, self._swap),
            "fault": (0.30, self._fault),
            "estop": (0.05, self._estop),
            "kill": (0.05, self._kill),
            "guest": (0.05, self._guest),
        }
        runner.wait_until_ready(READY_S)
        for policy_id in (*ids, WEAK):
            runner.select_policy_when_fresh(policy_id, READY_S)
        runner.select_policy_when_fresh(ids[0], READY_S)
        runner.listen(StepMsg, "step", lambda msg: self._on_step(step_from_msg(msg)), qos.reliable(200))
        runner.listen(String, "event", lambda msg: self._on_event(parse_event(msg.data)), qos.latched(20))

    def run(self, seconds: float, every_s: float, out: Any) -> None:
        """Do this and that for so long."""
        from _processes import growth, look, write  # type: ignore[import-not-found, unused-ignore]

        began_s, sampled_s, said_s = time.monotonic(), -math.inf, 0.0
        names, weights = list(self._acts), np.array([weight for weight, _ in self._acts.values()])
        while (t_s := time.monotonic() - began_s) < seconds and self.told["hangs"] < _MAX_HANGS:
            if t_s - sampled_s >= every_s:
                sampled_s = t_s
                samples = look(t_s, self._processes())
                write(samples, out)
                self.samples += samples
            if t_s - said_s >= 60.0:
                said_s = t_s
                print(f"{t_s / 60.0:.0f} min: {dict(self.told)}", file=sys.stderr)
            name = str(self._rng.choice(names, p=weights / weights.sum()))
            self.told[name] += 1
            try:
                self._drives()
                self._runner.spin(float(self._rng.uniform(0.2, 2.0)))
                self._acts[name][1]()
                self._drives()
            except (TimeoutError, RuntimeError, LookupError) as error:
                self.told["troubles"] += 1
                print(f"{name}: {error}", file=sys.stderr)
            self._tidy()
        self.growth = growth(self.samples, min(WARM_UP_SHARE * seconds, MOST_WARM_UP_S))

    def figures(self) -> dict[str, float]:
        """What came of it."""
        from _processes import RESOURCES  # type: ignore[import-not-found, unused-ignore]

        found = {
            "minutes": (self.samples[-1].t_s if self.samples else 0.0) / 60.0,
            **{name: float(self.told[name]) for name in ("ticks", "missed_ticks", "episodes", "hangs", "troubles")},
            **{f"{name}s": float(self.told[name]) for name in self._acts},
            "rolled_back": float(self.told[EventKind.SWAP_ROLLED_BACK]),
            "swaps_completed": float(self.told[EventKind.SWAP_COMPLETED]),
            "leaks": float(sum(each.leaks for each in self.growth)),
            "abandoned_shared_memory_mb": remove_abandoned() / 2**20,
        }
        if self.rollback_s:
            found["rollback_ms_p50"] = float(np.median(self.rollback_s) * 1e3)
            found["rollback_ms_max"] = float(np.max(self.rollback_s) * 1e3)
        for resource in RESOURCES:
            of_it = [each for each in self.growth if each.resource == resource]
            if of_it:
                worst = max(of_it, key=lambda each: each.at_least_per_h)
                found[f"{resource}_per_h_worst"] = worst.per_h
                found[f"{resource}_per_h_worst_at_least"] = worst.at_least_per_h
                print(f"{resource}: fastest {worst.process} {worst.per_h:+.2f} an hour", file=sys.stderr)
        for each in self.growth:
            if each.leaks:
                print(f"LEAK: {each}", file=sys.stderr)
        if not self.growth:
            print("no process lived long enough for a slope", file=sys.stderr)
        return found

    # what is heard

    def _on_step(self, step: Step) -> None:
        if self.step is not None:
            gap = round((step.stamp_ns - self.step.stamp_ns) / self._period_ns)
            self.told["missed_ticks"] += max(gap - 1, 0)
        self.step = step
        self.told["ticks"] += 1
        self.told["episodes"] += step.is_last

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self.told[event.kind] += 1

    def _heard(self, kind: EventKind, since_ns: int) -> Event | None:
        return next((event for event in self.events if event.kind is kind and event.stamp_ns >= since_ns), None)

    # what is waited for

    def _drives(self, early: bool = False) -> None:
        """Until a policy drives, in the beginning of an episode if so wanted; episodes are begun where none run."""

        def fresh() -> bool:
            step = self.step
            now = step is not None and time.time_ns() - step.stamp_ns < 10**9
            return now and step is not None and step.source is Source.POLICY and (not early or step.index < EARLY)

        end_s = time.monotonic() + RECOVER_S
        while not fresh():
            if time.monotonic() > end_s:
                self.told["hangs"] += 1
                raise TimeoutError(f"no policy drove for {RECOVER_S:.0f} s; the last step: {self.step}")
            if self._run is None or self._run.done():
                try:
                    self._runner.wait_until_ready(RECOVER_S)
                    self._run = self._runner.start_episodes(count=100_000).get_result_async()
                except (RuntimeError, TimeoutError) as error:
                    print(f"episodes: {error}", file=sys.stderr)
            self._runner.spin(0.1)

    def _processes(self) -> dict[str, int]:
        found = {"soak": os.getpid()}
        for launch in self._launches:
            for name in launch.running():
                try:
                    found[name] = launch.pid(name)
                except LookupError:
                    continue
        return found

    # what is done

    def _select(self, policy_id: str) -> int:
        """Ask for a policy; returns when (ns)."""
        asked_ns = time.time_ns()
        self._runner.select_policy_when_fresh(policy_id, RECOVER_S)
        return asked_ns

    def _swap(self) -> None:
        current = self.step.policy_id if self.step is not None else ""
        self._select(str(self._rng.choice([policy_id for policy_id in self._ids if policy_id != current])))

    def _fault(self) -> None:
        """The weak policy takes over and fails on probation."""
        self._order("")
        self._drives(early=True)
        asked_ns = self._select(WEAK)
        handed = lambda: self._heard(EventKind.SWAP_HANDED_OVER, asked_ns) is not None  # noqa: E731
        self._runner.spin_until(handed, 10.0, "the hand-over")
        self._runner.spin(float(self._rng.uniform(0.0, 0.5)))
        fault = str(self._rng.choice(FAULTS))
        pid = self._launches[-1].pid(f"policy_{WEAK}")
        if fault == "stop":
            os.kill(pid, signal.SIGSTOP)
            failed_ns = time.time_ns()
        else:
            failed_ns = self._order(fault)
        try:
            back: Callable[[], Event | None] = lambda: self._heard(EventKind.SWAP_ROLLED_BACK, asked_ns)  # noqa: E731
            self._runner.spin_until(lambda: back() is not None, 20.0, f"the roll-back after {fault}")
            event = back()
            assert event is not None
            self.rollback_s.append((event.stamp_ns - failed_ns) * 1e-9)
        finally:
            self._order("")
            if fault == "stop":
                os.kill(pid, signal.SIGCONT)
            self._select(self._ids[0])

    def _order(self, text: str) -> int:
        """Tell the weak policy how to fail; returns when the first observation comes that it fails at (ns)."""
        part = self._orders.with_suffix(".part")
        part.write_text(text)
        part.replace(self._orders)
        return math.ceil((time.time_ns() + self._lead_ns) / self._period_ns) * self._period_ns - self._lead_ns

    def _estop(self) -> None:
        self._runner.set_estop(True, 10.0)
        self._runner.spin(float(self._rng.uniform(0.5, 2.0)))
        self._runner.set_estop(False, 10.0)

    def _kill(self) -> None:
        name = str(self._rng.choice(KILLED))
        os.kill(self._launches[0].pid(name), signal.SIGKILL)
        if name == "episode_manager":
            self._run = None  # nobody answers for what the dead one was asked
        self._runner.spin(2.0)
        self._runner.wait_until_ready(RECOVER_S)

    def _guest(self) -> None:
        """A policy joins the cell, drives, and leaves."""
        self._guests += 1
        policy_id = f"{GUEST}{self._guests}"
        file, arguments = policy_launch("scripted", policy_id, "")
        arguments["task"] = self._task.name
        with Launch(launch_file(file), arguments, log_dir=self._folder / GUEST):
            self._select(policy_id)
            self._runner.spin(2.0)
            self._select(self._ids[0])
        shutil.rmtree(self._folder / GUEST, ignore_errors=True)

    def _tidy(self) -> None:
        """All but the newest bags go, so that an hour fits on any disk."""
        bags = sorted((self._folder / "bags").glob("*/*"), key=lambda bag: bag.stat().st_mtime)
        for bag in bags[:-BAGS_KEPT]:
            shutil.rmtree(bag, ignore_errors=True)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
