"""The agent of this machine as a service of systemd: the unit's text, put in place, taken away."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import netlab
from netlab import processes
from netlab.errors import CapabilityError

NAME = "netlab-agent.service"
UNITS = Path("/etc/systemd/system")
SECRETS = Path("/etc/netlab/agent.env")
RUNNING = Path("/run/systemd/system")  # there where systemd is the first process: sd_booted(3)


def text(words: Sequence[str], what: str) -> str:
    """Return the unit that runs `netlab WORDS`; *what* the machine is then.

    An agent that ends is started again, however often, and goes on; its pods are to outlive it, so
    nothing but the agent itself is ended with the service. Wrong words (2) and missing capabilities
    (3) are for people to mend. Source: systemd.unit(5), systemd.service(5), systemd.kill(5).
    """
    root = Path(netlab.__file__).parent.parent
    command = shlex.join([sys.executable, "-m", "netlab", *words]).replace("%", "%%")
    return f"""\
[Unit]
Description=netlab: this machine is {what}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
Environment={shlex.quote(f"PYTHONPATH={root}").replace("%", "%%")}
EnvironmentFile=-{SECRETS}
ExecStart={command}
Restart=on-failure
RestartSec=1
RestartPreventExitStatus=2 3
KillMode=process
LimitNOFILE=524288

[Install]
WantedBy=multi-user.target
"""


def require() -> None:
    """Raise CapabilityError unless systemd runs here."""
    if not RUNNING.is_dir():
        raise CapabilityError(
            "systemd does not run on this machine",
            hint="without --install the agent runs in the foreground, for any other supervisor",
        )


def runs(unit: str, *, password: str = "") -> bool:
    """Return whether systemd runs *unit* already, word by word, and will after a boot."""
    if not (UNITS / NAME).exists() or (UNITS / NAME).read_text() != unit:
        return False
    if (SECRETS.read_text() if SECRETS.exists() else "") != secrets(password):
        return False
    for question in ("is-active", "is-enabled"):
        if processes.run(["systemctl", "--quiet", question, NAME], check=False).returncode:
            return False
    return True


def secrets(password: str) -> str:
    """Return the text of SECRETS for *password*; "" for none."""
    if not password:
        return ""
    escaped = re.sub(r'([\\"$`])', r"\\\1", password)  # as a shell has it: systemd.exec(5)
    return f'NETLAB_ETCD_PASSWORD="{escaped}"\n'


def install(unit: str, *, password: str = "") -> None:
    """Have systemd run *unit*, now and after each boot. Raises CapabilityError, NetlabError."""
    require()
    if password:
        SECRETS.parent.mkdir(exist_ok=True)
        SECRETS.touch(mode=0o600)
        SECRETS.chmod(0o600)
        SECRETS.write_text(secrets(password))
    else:
        SECRETS.unlink(missing_ok=True)
    (UNITS / NAME).write_text(unit)
    processes.run(["systemctl", "daemon-reload"])
    processes.run(["systemctl", "enable", NAME])
    processes.run(["systemctl", "restart", NAME])


def remove() -> bool:
    """Have systemd forget the unit, if it is there, and end what it runs; return whether it was."""
    if not (UNITS / NAME).exists():
        return False
    if RUNNING.is_dir():
        processes.run(["systemctl", "disable", "--now", NAME], check=False)
    (UNITS / NAME).unlink(missing_ok=True)
    SECRETS.unlink(missing_ok=True)
    if RUNNING.is_dir():
        processes.run(["systemctl", "daemon-reload"], check=False)
    return True
