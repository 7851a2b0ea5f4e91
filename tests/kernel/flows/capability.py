"""What a case needs of the kernel that netlab itself can do without."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from flow_cases import steps

from netlab.errors import CapabilityError
from netlab.kernel import ipvs, netns
from netlab.proxy import Mode

Words = dict[str, Any]


def lacking(case: Words, mode: Mode) -> str:
    """Return what is missing here for *case* in *mode*, in words; "": nothing."""
    if mode is Mode.IPVS and (why := without_ipvs()):
        return why
    services = [one for given, _ in steps(case) for one in given["services"]]
    if any(port["protocol"] == "SCTP" for one in services for port in one["ports"]):
        if not _follows_sctp():
            return "SCTP in conntrack"
        if mode is Mode.IPTABLES and not _takes("-p", "sctp", "-m", "sctp", "--dport", "1"):
            return "xt_sctp"
    if mode is Mode.IPTABLES and any("session_affinity" in one for one in services):
        return "" if _takes("-m", "recent", "--name", "x", "--set") else "xt_recent"
    return ""


@cache
def without_ipvs() -> str:
    """Return what of ipvs mode's needs is missing here."""
    try:
        ipvs.require()
    except CapabilityError as error:
        return str(error)
    return ""


def _follows_sctp() -> bool:
    return Path("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed").exists()


@cache
def _takes(*rule: str) -> bool:
    """Return whether iptables has the matches of a rule, by trying in a namespace."""
    name = f"nltest{os.getpid()}.try"
    netns.create(name)
    try:
        with netns.entered(name):
            command = ["iptables", "-A", "INPUT", *rule]
            return subprocess.run(command, capture_output=True).returncode == 0
    finally:
        netns.delete(name)
