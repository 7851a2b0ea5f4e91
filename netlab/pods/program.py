"""Becomes a container's program inside its pod's sandbox.

The agent starts it as its own child, already in the PID and network namespaces; here it enters
the others, marks itself with its start time (which no child of it will share), and executes the
program. One process from start to end, so the agent learns the exit code, and the program outlives
the agent.

Arguments: ROOT of the package, pidfd of the sandbox, descriptor for the reason of a failure,
working directory, program and its arguments.
"""

from __future__ import annotations

import os
import signal
import sys

from netlab.pods.namespaces import CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUTS, setns

NOT_STARTED = 127


def main() -> int:
    """Become the program; otherwise say why on the failure descriptor and in the log."""
    pidfd, failure = int(sys.argv[1]), int(sys.argv[2])
    directory, argv = sys.argv[3], sys.argv[4:]
    os.set_inheritable(failure, False)
    reason = ""
    try:
        start = _start_time()
        setns(pidfd, CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS)
        os.close(pidfd)
        os.chdir(directory if directory and os.path.isdir(directory) else "/")
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        rest = dict(os.environ)
        mark = rest.pop("NETLAB_PROCESS")
        environment = {"NETLAB_PROCESS": mark, "NETLAB_PROCESS_START": start, **rest}
        os.execvpe(argv[0], argv, environment)
    except FileNotFoundError:
        reason = f'exec: "{argv[0]}": not found'
    except OSError as error:
        reason = f'exec: "{argv[0]}": {(error.strerror or str(error)).lower()}'
    os.write(failure, reason.encode())
    print(reason, file=sys.stderr, flush=True)
    return NOT_STARTED


def _start_time() -> str:
    """Return our start time in clock ticks since boot: proc_pid_stat(5), field 22."""
    with open("/proc/self/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[19]


if __name__ == "__main__":
    sys.exit(main())
