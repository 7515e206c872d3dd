"""Runs the project's XML launch files where ``ros2 launch`` is not installed.

:func:`~rldg_bringup.launch_runner.plan.resolve` turns a file and its arguments into processes (pure), and
:class:`~rldg_bringup.launch_runner.supervisor.Launch` runs them.
"""

from rldg_bringup.launch_runner.document import LaunchFileError
from rldg_bringup.launch_runner.plan import Argument, Process, declared_arguments, describe_arguments, resolve
from rldg_bringup.launch_runner.supervisor import Launch

__all__ = ["Argument", "Launch", "LaunchFileError", "Process", "declared_arguments", "describe_arguments", "resolve"]
