"""A command executed in a pod, a node or a machine around them, its output kept."""

from __future__ import annotations

import os
import select
import signal
import tempfile
from collections.abc import Sequence

from netlab.cluster import Cluster
from netlab.errors import NetlabError, UsageError
from netlab.lab.live import Live
from netlab.pods import execution
from netlab.testing.answers import Ran


def executed(
    live: Live, word: str, words: Sequence[str], *, input: str = "", timeout: float
) -> Ran:
    """Run *words* in the place called *word* to its end; return what it printed.

    Raises NotFoundError, NetlabError when it takes longer than *timeout* seconds.
    """
    if not words:
        raise UsageError("no command to run", hint='exec("ip", "addr")')
    target, env, cwd = _target(live, live.cluster(), word)
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdin.write(input.encode())
        stdin.seek(0)
        child = os.fork()
        if child == 0:
            code = execution.CANNOT_EXECUTE
            try:
                os.setpgid(0, 0)
                for number, file in enumerate((stdin, stdout, stderr)):
                    os.dup2(file.fileno(), number)
                code = execution.run_in(target, words, env=env, cwd=cwd)
            finally:
                os._exit(code)
        ended = _ended(child, timeout)
        stdout.seek(0)
        stderr.seek(0)
        said = stdout.read().decode(errors="replace"), stderr.read().decode(errors="replace")
    if ended is None:
        raise NetlabError(f"{word}: {' '.join(words)}: not done after {timeout:g} s")
    return Ran(word, tuple(words), ended, *said)


def _ended(child: int, timeout: float) -> int | None:
    """Wait for *child*; return its exit code, None when it had to be killed, with its group."""
    end = os.pidfd_open(child)
    try:
        late = not select.select([end], [], [], timeout)[0]
    finally:
        os.close(end)
    if late:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return None if late else os.waitstatus_to_exitcode(status)


def _target(
    live: Live, cluster: Cluster, word: str
) -> tuple[execution.Target, dict[str, str], str | None]:
    """Return where *word* is, the variables of its first container, and its directory."""
    from netlab.cli.inside import MEMBERS, machine, pod_named, pod_target

    if word in MEMBERS or word.startswith("node/"):
        return execution.Target(*machine(cluster, word)), {}, None
    pod = pod_named(cluster, word, "default")
    first = pod.containers[0] if pod.containers else None
    env = {pair.name: pair.value for pair in first.env} if first else {}
    return pod_target(live.run, cluster, pod), env, (first.workingDir or None) if first else None
