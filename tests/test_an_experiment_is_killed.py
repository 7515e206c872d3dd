"""SIGKILL of everything at random moments while an experiment runs: the same command goes on, to the same result."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rldg_bringup.testing import free_environment
from rldg_experiments.plan import load_experiment
from rldg_experiments.running import survey

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

KILLS = 10
LONGEST_S = 40.0  # between two of them
PRESET = """
encoder: pixels_sim
pretrain_frames: 256
pretrain_epochs: 1
hidden: [16]
batch: 16
demos: 2
warmup_steps: 20
max_env_steps: 400
final_trials: 4
"""
EXPERIMENT = """
name: killed
title: A whole small experiment
about: Does it end with the same numbers however often it is killed?
stages:
  - {{do: train, name: specialist, task: usb_insertion, preset: "{preset}", seed: 3}}
  - {{do: collect, name: demonstrations, task: usb_insertion, policy: operator, successes: 6}}
  - do: build
    name: data
    bags: ["@demonstrations"]
    recipe:
      sources: [{{name: all}}]
      split: {{test: 0.2}}
      format: {{images: image, image_size_px: 128}}
  - {{do: finetune, name: student, config: octo_nano, data: "@data", steps: 60, seed: 1}}
  - do: evaluate
    name: trials
    plan:
      tasks: [{{task: usb_insertion}}]
      policies:
        - {{name: specialist, type: specialist, checkpoint: "@specialist"}}
        - {{name: student, type: octo, checkpoint: "@student"}}
      trials: 6
figures:
  - name: success
    kind: bars
    title: Success
    evaluation: trials
    bars:
      - {{label: specialist, policies: [specialist]}}
      - {{label: student, policies: [student]}}
    claims: [{{first: specialist, second: student}}]
"""


class Run:
    """One workspace of the experiment."""

    def __init__(self, plan: Path, folder: Path) -> None:
        self.plan, self.folder = plan, folder

    def start(self) -> subprocess.Popen[bytes]:
        words = [str(self.plan), "--workspace", str(self.folder / "stages"), "--out", str(self.folder / "page")]
        with (self.folder / "log.txt").open("ab") as log:
            command = [sys.executable, "-m", "rldg_bringup.cli", "reproduce", *words]
            return subprocess.Popen(command, stdout=log, stderr=log, env=free_environment(), start_new_session=True)

    def result(self) -> dict[str, Any]:
        """What was measured: figures, the outcome of every trial, the student's weights."""
        states = {state.stage.name: state for state in survey(load_experiment(str(self.plan)), self.folder / "stages")}
        trials = (states["trials"].folder / "results" / "trials.jsonl").read_text().splitlines()
        figures = json.loads((self.folder / "page" / "results.json").read_text())["findings"]
        return {
            "figures": [(bar["label"], bar["count"]) for finding in figures for bar in finding["bars"]],
            "trials": sorted(
                (told["trial"], told["outcome"], told["steps"], told["closest_m"]) for told in map(json.loads, trials)
            ),
            "weights": (states["student"].folder / "checkpoint" / "params.safetensors").read_bytes(),
        }


def test_an_experiment_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(PRESET)
    plan = tmp_path / "killed.yaml"
    plan.write_text(EXPERIMENT.format(preset=tmp_path / "tiny.yaml"))
    whole, killed = (Run(plan, tmp_path / name) for name in ("whole", "killed"))
    for run in (whole, killed):
        run.folder.mkdir()
    assert whole.start().wait() == 0, (whole.folder / "log.txt").read_text()[-2000:]
    moments = random.Random(5)
    kills = 0
    while True:
        process = killed.start()
        end = time.monotonic() + (moments.uniform(2.0, LONGEST_S) if kills < KILLS else 3000.0)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0, (killed.folder / "log.txt").read_text()[-2000:]
    assert kills >= KILLS // 2
    ours, theirs = killed.result(), whole.result()
    assert ours["figures"] == theirs["figures"] and ours["trials"] == theirs["trials"]
    assert ours["weights"] == theirs["weights"]
