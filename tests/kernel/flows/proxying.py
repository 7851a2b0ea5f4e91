"""A case's objects in a file, and `netlab proxy` run on it for one node, as a user would."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from flow_cases import DETECT_LOCAL, documents

from netlab.cli.program import run
from netlab.kernel.netns import entered
from netlab.proxy import Mode

from .topology import Place
from .traffic import SENTINEL

Words = dict[str, Any]

ENDING = 20  # seconds; a deadline


class Refused(Exception):
    """`netlab proxy` said no; the text is what it printed."""


def objects_file(given: Words, directory: Path, beside: Sequence[Words] = ()) -> Path:
    """Return a file in *directory* with the objects of a case, as `kubectl get -o json` prints."""
    items = {"apiVersion": "v1", "kind": "List", "items": [*documents(given), *beside]}
    path = directory / "objects.json"
    path.write_text(json.dumps(items))
    return path


def arguments(words: Words, mode: Mode, place: Place, file: Path) -> list[str]:
    """Return the command line that programs the node *place* as a case's `proxy` says."""
    detect, listed = words["detect_local"], words["nodeport_addresses"]
    how = DETECT_LOCAL.get(detect["mode"], detect["mode"])
    value = ",".join(detect.get("cidrs", ())) or detect.get("bridge") or detect.get("prefix")
    found = ["proxy", "-f", str(file), "--node", place.name, "--netns", place.netns]
    found += ["--proxy-mode", str(mode), "--detect-local", f"{how}={value}" if value else how]
    if words["masquerade_all"]:
        found.append("--masquerade-all")
    if isinstance(listed, list):
        found += ["--nodeport-addresses", ",".join(listed)]
    if "service_cidrs" in words:
        found += ["--service-cidr", ",".join(words["service_cidrs"])]
    return [*found, "--localhost-nodeports", str(words["localhost_nodeports"]).lower()]


def programme(
    given: Words, mode: Mode, place: Place, directory: Path, *, beside: Sequence[Words] = ()
) -> str:
    """Run the command to its end, in this process; return what it printed. Raises Refused.

    *beside*: objects that are there too.
    """
    command = arguments(given["proxy"], mode, place, objects_file(given, directory, beside))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(command)
    if code:
        raise Refused(f"netlab {' '.join(command)}: exit code {code}\n{err.getvalue()}")
    return out.getvalue()


def programme_behind_firewall(given: Words, mode: Mode, place: Place, directory: Path) -> None:
    """Run the command on a node whose own firewall forwards nothing but what others accept."""
    programme(given, mode, place, directory)
    with entered(place.netns):
        subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
        subprocess.run(["iptables", "-A", "FORWARD", "-d", SENTINEL, "-j", "ACCEPT"], check=True)


@contextmanager
def following(given: Words, mode: Mode, place: Place, directory: Path) -> Iterator[None]:
    """Have the command go on (`--watch`) in a process of its own, once its first pass is done."""
    command = arguments(given["proxy"], mode, place, objects_file(given, directory))
    process = subprocess.Popen(
        [sys.executable, "-m", "netlab", *command, "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        if not process.stdout.readline():
            _, complaint = process.communicate(timeout=ENDING)
            raise Refused(f"netlab {' '.join(command)} --watch: {complaint}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=ENDING)
