"""What processes are told that others of this project start."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

# one thread of its own for XLA: more would only take turns with the simulation
XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

# What a child does before it becomes the program. It is a program itself, because preexec_fn may dead-lock where other
# threads run, and DDS has several. Ignored signals are inherited: SIGPIPE from Python, SIGINT from background jobs.
_SHIM = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(sys.argv[2]))
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[3], sys.argv[3:])
"""


def tied(command: Sequence[str], at_our_end: signal.Signals) -> list[str]:
    """The command line of a child that gets a signal when the thread that starts it ends, even by SIGKILL (Linux).

    Args:
        command: path of a program, and its arguments.
        at_our_end: the signal.
    """
    return [sys.executable, "-I", "-S", "-c", _SHIM, str(os.getpid()), str(int(at_our_end)), *command]
