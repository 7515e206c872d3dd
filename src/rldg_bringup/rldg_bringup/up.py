"""``up``: launch a task's cell, with ``ros2 launch`` where it is installed and the launch runner elsewhere."""

from __future__ import annotations

import difflib
import importlib.util
import os
import shutil
import sys
import threading
import time
from pathlib import Path

from rldg_bringup.domain import DomainError, lease_domain, leased_domains
from rldg_bringup.launch_runner import Launch, LaunchFileError, declared_arguments, describe_arguments
from rldg_bringup.launch_runner.supervisor import print_line, run_in_foreground
from rldg_bringup.packages import find_share
from rldg_core.task import TaskError, load_robot, load_task

PACKAGE = "rldg_bringup"
_SUFFIX = ".launch.xml"
_OPTIONS = ("--show-args", "--share-domain", "--with-cell", "--runner")
_ROBOTS = ("fr3_direct", "franka")  # real ones
_LOOK_AGAIN_S = 1.0

USAGE = """\
usage: rldg up <task> [argument:=value ...] [--show-args] [--share-domain] [--with-cell] [--runner]

  --show-args      print the arguments of the launch file and stop
  --share-domain   use ROS_DOMAIN_ID although another launch on this machine uses it
  --with-cell      the same, and end with that launch (needs the project's launch runner)
  --runner         use the project's launch runner although ros2 launch is installed
"""


def launch_directory() -> Path:
    """Where the launch files are; raises LookupError."""
    return find_share(PACKAGE) / "launch"


def launch_file(name: str) -> Path:
    """The launch file of a task or part; raises LookupError, which suggests the nearest name."""
    file = launch_directory() / f"{name}{_SUFFIX}"
    if file.is_file():
        return file
    names = sorted(path.name.removesuffix(_SUFFIX) for path in file.parent.glob(f"*{_SUFFIX}"))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise LookupError(f"there is no task {name!r}; {hint}tasks: {', '.join(tasks())}")


def tasks() -> list[str]:
    """The tasks that have a launch file: those with a task file of the same name."""
    share = find_share(PACKAGE)
    named = (path.name.removesuffix(_SUFFIX) for path in (share / "launch").glob(f"*{_SUFFIX}"))
    return sorted(name for name in named if (share / "config" / "tasks" / f"{name}.yaml").is_file())


def main(argv: list[str]) -> int:
    """Run the verb; ``argv`` is what follows it. Exit code: 1 where a process failed, 2 for a wrong call, else 0."""
    options = {word for word in argv if word.startswith("-")}
    unknown = options - {*_OPTIONS, "--help", "-h"}
    words = [word for word in argv if not word.startswith("-")]
    assignments = [word.partition(":=") for word in words if ":=" in word]
    names = [word for word in words if ":=" not in word]
    if options & {"--help", "-h"}:
        print(USAGE)
        return 0
    try:
        if unknown:
            raise LookupError(f"there is no option {min(unknown)}; options: {', '.join(_OPTIONS)}")
        if not names:
            print(USAGE + "\ntasks:\n" + "\n".join(f"  {task}" for task in tasks()))
            return 0 if not argv else 2
        if len(names) > 1:
            raise LookupError(f"{names[1]!r} is not of the form argument:=value; one task at a time is launched")
        file = launch_file(names[0])
        if "--show-args" in options:
            print(describe_arguments(declared_arguments(file, os.environ, find_share)))
            return 0
        arguments = {name: value for name, _, value in assignments}
        # what the nodes would refuse one by one is said once, before anything starts
        if "scene" in arguments:
            load_task(names[0]).scene(arguments["scene"])
        if "robot_file" in arguments:
            load_robot(arguments["robot_file"])
        if arguments.get("robot", "sim") in _ROBOTS and not arguments.get("robot_ip"):
            raise LookupError(
                f"robot_ip: is not given, but robot:={arguments['robot']} needs the address of the robot; "
                "add for instance robot_ip:=172.16.0.2"
            )
        follow = "--with-cell" in options
        share, runner = follow or "--share-domain" in options, follow or "--runner" in options
        return _launch(file, arguments, share=share, runner=runner, follow=follow)
    except (LookupError, LaunchFileError, DomainError, TaskError) as error:
        print(f"rldg up: {error.args[0]}", file=sys.stderr)
        return 2


def _launch(file: Path, arguments: dict[str, str], share: bool, runner: bool, follow: bool) -> int:
    chosen_by_user = bool(os.environ.get("ROS_DOMAIN_ID"))
    lease = lease_domain(file.name, share=share)
    if lease is not None and not chosen_by_user:
        # the lease is known on this machine only, so a domain chosen here must not reach over the network
        exports = {"ROS_DOMAIN_ID": str(lease.domain)}
        exports["ROS_AUTOMATIC_DISCOVERY_RANGE"] = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "LOCALHOST"
        os.environ.update(exports)
        print_line(
            "[launch] in other terminals: export " + " ".join(f"{name}={value}" for name, value in exports.items())
        )
    # the module tells ros2 launch from a ros2 command without it
    ros2 = shutil.which("ros2") if importlib.util.find_spec("ros2launch") and not runner else None
    if ros2 is not None:
        if lease is not None:
            lease.keep_over_exec()
        words = [f"{name}:={value}" for name, value in arguments.items()]
        os.execv(ros2, [ros2, "launch", PACKAGE, file.name, *words])
    launch = Launch(file, arguments, echo=print_line)
    if follow and lease is None:
        threading.Thread(target=_end_with_cell, args=(launch,), daemon=True).start()
    try:
        return run_in_foreground(launch)
    finally:
        if lease is not None:
            lease.close()


def _end_with_cell(launch: Launch) -> None:
    """Stop a launch when the one whose domain it shares is gone."""
    while leased_domains():
        time.sleep(_LOOK_AGAIN_S)
    launch.request_stop()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
