"""How fast the simulation steps in one process, and how that compares with gym-hil and robosuite on the same machine.

One step is one control period: 10 Hz control over 1 kHz physics (peers: 10 Hz over their own 500 Hz), with an image of
the wrist camera of 128 x 128 pixels. Rates are per second of process CPU time, the median of several blocks, because
wall time on a busy machine measures the neighbours; the wall rates are figures of their own. Peers run in their own
process, with their own rendering settings and once more with shadows and multisampling off, which are our settings.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGE_SIZE_PX = 128
PEERS = ("gym_hil", "robosuite")


def main(argv: list[str]) -> dict[str, float]:
    """Measure; the figures are those of docs/reference/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="rldg bench sim", description=__doc__)
    parser.add_argument("--task", default="usb_insertion")
    parser.add_argument("--steps", type=int, default=300, help="steps in one block (default: %(default)s)")
    parser.add_argument(
        "--blocks", type=int, default=5, help="blocks, of which the median counts (default: %(default)s)"
    )
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has gym-hil and robosuite")
    parser.add_argument(
        "--peer-steps", type=int, default=30, help="steps in one block of a peer (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    figures: dict[str, float] = {}
    for kind, with_images in (("image", True), ("state", False)):
        cpu_s, wall_s = time_ours(options.task, with_images, options.steps, options.blocks)
        figures[f"{kind}_steps_per_s"] = 1.0 / cpu_s
        figures[f"{kind}_steps_per_wall_s"] = 1.0 / wall_s
        print(f"{kind}: {1.0 / cpu_s:.0f} steps per CPU second, {1.0 / wall_s:.0f} per second of wall", file=sys.stderr)
    for peer in PEERS:
        for suffix, equal in (("", False), ("_equal_rendering", True)):
            peer_s = time_peer(options.peer_python, peer, equal, options.peer_steps)
            if peer_s is None:
                break
            figures[f"ratio_{peer}{suffix}"] = figures["image_steps_per_s"] * peer_s
            print(f"{peer}{suffix}: {1.0 / peer_s:.1f} steps per CPU second", file=sys.stderr)
    return figures


def time_blocks(step: Callable[[], None], steps: int, blocks: int) -> tuple[float, float]:
    """Median CPU and wall time of one step (s)."""
    for _ in range(max(3, steps // 10)):
        step()
    cpu, wall = [], []
    for _ in range(blocks):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        for _ in range(steps):
            step()
        cpu.append((time.process_time() - cpu_start) / steps)
        wall.append((time.perf_counter() - wall_start) / steps)
    return statistics.median(cpu), statistics.median(wall)


def random_steps(env: Any) -> Callable[[], None]:
    """Random actions of a tenth of the range, so that no arm leaves its scene, with resets where episodes end."""
    env.action_space.seed(0)
    env.reset(seed=0)

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(0.1 * env.action_space.sample())
        if terminated or truncated:
            env.reset()

    return step


def time_ours(task: str, with_images: bool, steps: int, blocks: int) -> tuple[float, float]:
    from rldg_sim.env import RldgEnv

    env = RldgEnv(task, image_size_px=IMAGE_SIZE_PX, with_images=with_images)
    try:
        return time_blocks(random_steps(env), steps, blocks)
    finally:
        env.close()


def time_peer(python: str, peer: str, equal: bool, steps: int) -> float | None:
    """CPU time of one step of a peer (s), or None with a line on stderr that says why not."""
    command = [python, str(Path(__file__).resolve()), peer, str(int(equal)), str(steps)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}
    environment.setdefault("MUJOCO_GL", "egl")
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{peer}: not measured: {error}", file=sys.stderr)
        return None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{peer}: not measured with {python}: {last}", file=sys.stderr)
        return None
    return float(json.loads(done.stdout.strip().splitlines()[-1])["cpu_s"])


def run_as_peer(peer: str, equal: bool, steps: int) -> dict[str, float]:
    """In the peer's interpreter: its own image environment, stepped at 10 Hz."""
    if equal:
        _render_as_we_do()
    env = _gym_hil() if peer == "gym_hil" else _robosuite()
    cpu_s, wall_s = time_blocks(random_steps(env), steps, 3)
    return {"cpu_s": cpu_s, "wall_s": wall_s}


def _render_as_we_do() -> None:
    """Switch shadows and multisampling off in every rendering context made from here on."""
    import mujoco

    make_context = mujoco.MjrContext

    def plain(model: Any, *arguments: Any, **keywords: Any) -> Any:
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        return make_context(model, *arguments, **keywords)

    mujoco.MjrContext = mujoco._render.MjrContext = plain


def _gym_hil() -> Any:
    import gym_hil  # noqa: F401  registers
    import gymnasium

    return gymnasium.make("gym_hil/PandaPickCubeBase-v0", image_obs=True)


def _robosuite() -> Any:
    import gymnasium
    import robosuite

    made = robosuite.make(
        "NutAssemblySquare",
        robots="Panda",
        has_renderer=False,
        has_offscreen_renderer=True,
        use_camera_obs=True,
        camera_names="robot0_eye_in_hand",
        camera_heights=IMAGE_SIZE_PX,
        camera_widths=IMAGE_SIZE_PX,
        control_freq=10,
        horizon=1000,
    )
    low, high = made.action_spec

    class Face(gymnasium.Env[Any, Any]):
        action_space = gymnasium.spaces.Box(low, high)

        def reset(self, **_: Any) -> Any:
            return made.reset(), {}

        def step(self, action: Any) -> Any:
            observation, reward, done, info = made.step(action)
            return observation, reward, done, False, info

    return Face()


if __name__ == "__main__":
    print(json.dumps(run_as_peer(sys.argv[1], sys.argv[2] == "1", int(sys.argv[3]))))
