"""A Franka FR3 without ros2_control: the arm's contract on franky's 1 kHz loop, in a process that does nothing else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

from rclpy.task import Future as RosFuture
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from rldg_control.arm_driver import PERIOD_S, ArmDriver, Reading, Stage
from rldg_control.franka_arm import FrankaArm, FrankaHand, has_realtime_kernel
from rldg_control.hand_driver import HandDriver
from rldg_core.frames import Pose
from rldg_core.impedance_parameters import CONTROLLER
from rldg_core.task import Gains, GripperUse
from rldg_ros import conversions as convert
from rldg_ros import qos
from rldg_ros.arm import STATE_PERIOD_S, ArmNode
from rldg_ros.base import ERROR, OK, WARN
from rldg_ros.conversions import Stamped
from rldg_ros.main import run

_JOIN_S = 3.0  # a thread that waits for a dead robot longer than this is left behind


class FrankaNode(ArmNode):
    """Publishes what the driver's thread has read last, hands on targets and gains, offers recovery and joint reset."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(CONTROLLER, **kwargs)
        self._address = str(self.declare("robot_ip", "", "IP address or name of the robot."))
        self._stale_s = self.declare(
            "state_timeout_s",
            0.1 if has_realtime_kernel() else 1.0,
            "Without a new state for so long (s), the link is at fault; 0.1, or 1 where the kernel has no PREEMPT_RT.",
            low=0.02,
            high=10.0,
        )
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def on_setup(self) -> None:
        if self.lockstep:
            raise ValueError("parameter lockstep: is true, must be false: a real arm does not wait")
        if not self._address:
            raise ValueError("parameter robot_ip: is empty, must be the address of the robot; give robot_ip:=...")
        self.set_up_arm()
        self._driver = ArmDriver(
            partial(FrankaArm, self._address, self.robot, self.task.impedance, self.now_ns),
            self.gate,
            self.task.impedance,
            self.robot.home_rad,
            self._stale_s,
        )
        self._hand = HandDriver(partial(FrankaHand, self._address, self.robot))
        self._published: Reading | None = None
        self.listen(convert.POSE, "target_pose", self._on_target, qos.reliable(2))
        if self.task.control.gripper is GripperUse.BINARY:  # else it holds a plug, which nobody may let go
            self.listen(Float64, "gripper/command", self._on_gripper, qos.latched())
        self.create_service(Trigger, "~/recover", partial(self._on_request, lambda: self._driver.recover()))
        self.create_service(Trigger, "~/reset_joints", partial(self._on_request, lambda: self._driver.reset_joints()))
        if not has_realtime_kernel():
            self.report("kernel", WARN, "not a PREEMPT_RT one: commands may come late, and the robot then stops")

    def on_start(self) -> None:
        self._ended.clear()
        self._threads = [
            threading.Thread(target=driver.run, args=(self._ended,), name=name, daemon=True)
            for driver, name in ((self._driver, "arm"), (self._hand, "hand"))
        ]
        for thread in self._threads:
            thread.start()
        self._timer = self.create_timer(PERIOD_S, self._publish, clock=self.steady_clock)

    def on_stop(self) -> None:
        self.destroy_timer(self._timer)
        self._ended.set()
        for thread in self._threads:
            thread.join(_JOIN_S)

    # what comes in

    def _on_target(self, target: Stamped[Pose]) -> None:
        self._driver.refuse_far(target.value)
        if self.admit(target):
            self._driver.set_target(target.value)

    def _on_gripper(self, msg: Float64) -> None:
        self._hand.set_closed(self.closes(msg.data))

    def hold(self) -> None:
        self._driver.hold()

    def apply_gains(self, gains: Gains) -> None:
        self._driver.set_gains(gains)

    async def _on_request(
        self, ask: Callable[[], Future[str]], _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """The driver's thread answers; meanwhile this node goes on."""
        if not self.active:
            response.message = "the driver is not active"
            return response
        waiting = RosFuture(executor=self.executor)
        ask().add_done_callback(lambda answer: waiting.set_result(answer.result()))
        response.message = await waiting
        response.success = not response.message
        return response

    # what goes out

    def _publish(self) -> None:
        driver, reading = self._driver, self._driver.reading
        self.publish_mode(driver.mode)
        if driver.hangs:  # nothing but a new process helps
            raise RuntimeError(f"the client library waits for {self._address} without end")
        faulty = driver.stage in (Stage.FAULT, Stage.CONNECTING)
        self.report("arm", ERROR if faulty else OK, driver.trouble or str(driver.stage))
        if reading is not None and _due(self._published, reading):
            self._published = reading
            self.publish_state(replace(reading.state, gripper_width_m=self._hand.width_m), reading.stamp_ns)

    def on_diagnose(self) -> None:
        super().on_diagnose()
        reading = self._driver.reading
        if reading is not None:
            self.report("link", OK, success_rate=f"{reading.success_rate:.3f}", robot_time_s=reading.robot_time_s)
        self.report("hand", ERROR if self._hand.trouble else OK, self._hand.trouble)


def _due(last: Reading | None, reading: Reading) -> bool:
    """Whether a period of the robot's clock has passed, to the nearest step of the driver; stamps grow."""
    if last is None:
        return True
    elapsed_s = reading.robot_time_s - last.robot_time_s
    return reading.stamp_ns > last.stamp_ns and not 0.0 <= elapsed_s < STATE_PERIOD_S - 0.5 * PERIOD_S


def main(args: list[str] | None = None) -> int:
    return run(FrankaNode, args)


if __name__ == "__main__":
    sys.exit(main())
