"""Every command with its summary, and the answers that need nothing else.

`netlab --help` has to start in less than three times a bare `python -c pass`, and importing click
alone takes longer than that. So the list of commands is data, the text is made here, and click's
group prints the same text: the two cannot disagree. This module imports nothing that Python has
not already loaded.
"""

from __future__ import annotations

import io
import os
import sys

from netlab import __version__


class Entry:
    """One command; `where` is `module:attribute` below netlab.cli.

    A plain class: dataclasses, typing and collections each cost a millisecond or more to import.
    """

    def __init__(self, name: str, where: str, section: str, summary: str) -> None:
        self.name = name
        self.where = where
        self.section = section
        self.summary = summary


INTERRUPTED = 128 + 2  # as a shell counts: 128 + SIGINT
READER_GONE = 128 + 13  # 128 + SIGPIPE
SECTIONS = ("Lab", "Look", "Change", "Services", "Prove", "Machine")

COMMANDS = (
    Entry("up", "lifecycle:up", "Lab", "Converge a lab to its files; a second run changes nothing"),
    Entry("down", "lifecycle:down", "Lab", "Remove everything netlab made, and only that"),
    Entry("plan", "lifecycle:plan", "Lab", "Show what `up` would do, in the words of ip(8)"),
    Entry("status", "status:status", "Look", "Show nodes, leases, agent and convergence"),
    Entry("get", "get:get", "Look", "List objects: pods, nodes, leases, labs, any Kubernetes kind"),
    Entry("describe", "describe:describe", "Look", "Show one object and where it lives here"),
    Entry("graph", "graph:graph", "Look", "Draw the lab: mermaid, dot or SVG"),
    Entry(
        "logs", "inside:logs", "Look", "Print what a container's command wrote, or a node's agent"
    ),
    Entry("apply", "change:apply", "Change", "Create or change objects of the live lab"),
    Entry("delete", "change:delete", "Change", "Delete objects of the live lab"),
    Entry(
        "exec", "inside:exec_", "Change", "Run a command inside a pod, a node or the world around"
    ),
    Entry("scale", "editing:scale", "Change", "Give a workload another number of replicas"),
    Entry("rollout", "rolling:rollout", "Change", "Restart, follow, undo, pause a rollout"),
    Entry("label", "editing:label", "Change", "Set or remove labels of objects"),
    Entry("annotate", "editing:annotate", "Change", "Set or remove annotations of objects"),
    Entry("taint", "editing:taint", "Change", "Set or remove taints of nodes"),
    Entry("cordon", "editing:cordon", "Change", "Have a node take no new pods"),
    Entry("uncordon", "editing:uncordon", "Change", "Have a node take pods again"),
    Entry("drain", "draining:drain", "Change", "Cordon a node and evict its pods"),
    Entry("node", "faulting:node", "Change", "Add, remove, stop or start a node of the live lab"),
    Entry("link", "faulting:link", "Change", "Pull, plug in or spoil a cable of the live lab"),
    Entry("fault", "faulting:fault", "Change", "Stop etcd, cut nodes off from it; clear undoes it"),
    Entry("attach", "attaching:attach", "Change", "Plug a foreign namespace into the underlay"),
    Entry("detach", "attaching:detach", "Change", "Take a foreign namespace out of it again"),
    Entry("proxy", "proxy:proxy", "Services", "Program one namespace as a kube-proxy, from files"),
    Entry(
        "diff-modes",
        "diffmodes:diff_modes",
        "Services",
        "Show what iptables and nftables mode do differently",
    ),
    Entry("verify", "prove:verify", "Prove", "Prove the paths of the notes with packets"),
    Entry("probe", "prove:probe", "Prove", "Send one flow and show the way it took"),
    Entry("trace", "trace:trace", "Prove", "Tell one flow's whole way: devices, rules, rewrites"),
    Entry("why", "trace:why", "Prove", "Tell what stops a flow, and what would repair it"),
    Entry("capture", "capture:capture", "Prove", "Write what devices show into one pcapng file"),
    Entry("join", "machines:join", "Machine", "Tell how this machine becomes a node of a lab"),
    Entry("agent", "machines:agent", "Machine", "Be one node of a lab that is on several machines"),
    Entry(
        "doctor", "machine:doctor", "Machine", "Try what this machine's kernel and programs can do"
    ),
    Entry("completion", "machine:completion", "Machine", "Print the completion script of a shell"),
    Entry("version", "machine:version", "Machine", "Print the version"),
)

HEAD = """\
Usage: netlab [-L LAB] [-v] COMMAND [ARGS]...

  A Kubernetes network data plane from the real kernel, in network namespaces.
"""

TAIL = """
Options:
  -L, --lab LAB  the lab to work on [env: NETLAB_LAB]; not needed when there is just one
  -v, --verbose  -v: plan lines and where the time went; -vv: every command, ready to paste
  --version      Print the version
  -h, --help     Print this; `netlab COMMAND --help` has a command's options and examples

Examples:
  netlab up topologies/notes.yaml --verify
  netlab get pods -o wide

Exit codes: 0 fine; 1 a check failed or a run-time error; 2 wrong usage or bad input;
            3 a capability or privilege is missing; 4 not found; 130 interrupted.
"""


def help_text() -> str:
    """Return the help of the group, commands grouped by what one wants."""
    width = max(len(entry.name) for entry in COMMANDS)
    lines = [HEAD]
    for section in SECTIONS:
        lines.append(f"{section}:")
        lines += [
            f"  {entry.name:{width}}  {entry.summary}"
            for entry in COMMANDS
            if entry.section == section
        ]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n" + TAIL


def version_text() -> str:
    """Return the version of netlab, of Python and of the kernel, on one line."""
    kernel = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    return f"netlab {__version__} (Python {python}, {kernel.sysname} {kernel.release})\n"


def answer(arguments: list[str]) -> str | None:
    """Return the text that answers *arguments* by itself, or None when a command must run."""
    if "_NETLAB_COMPLETE" in os.environ:
        return None
    if arguments in ([], ["-h"], ["--help"], ["help"]):
        return help_text()
    if arguments in (["version"], ["--version"]):
        return version_text()
    return None


def print_out(text: str) -> int:
    """Write *text* to stdout; return the exit code, 141 when the reader has gone (as SIGPIPE)."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        return READER_GONE
    except OSError as error:
        silence_stdout()
        complain(f"error: cannot write the result: {error.strerror}")
        return 1
    return 0


def open_streams() -> None:
    """Make stdin, stdout and stderr ones that can be used, whatever they were given as.

    Closed (`>&-`), they are /dev/null, and no file opened later takes their numbers by accident.
    A character that the locale has not got is written as `\\xb5`.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def interrupted() -> int:
    """Say on stderr that ^C ended the command; return its exit code."""
    on_terminal = sys.stderr.isatty()
    complain(("\r" if on_terminal else "") + "interrupted")  # \r: over the ^C it has echoed
    return INTERRUPTED


def complain(text: str) -> None:
    """Write one line to stderr; a reader that is gone is no further error."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass


def give_up_unwritable() -> None:
    """Forget what stdout holds if it cannot be written: Python would complain again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        silence_stdout()


def silence_stdout() -> None:
    """Point stdout at /dev/null, so that Python's own flush at exit cannot complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
