"""A foreign network namespace in a running lab's underlay: part of the run-time Lab.

As a fault it is a wish: kept with the Lab document of the running lab, made and repaired by the
usual comparison, undone by one command. The files know nothing of it: `up` keeps it and says so,
`down` undoes it.
"""

from __future__ import annotations

import msgspec


class Attachment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A namespace that netlab did not make, and the card it has on the underlay.

    `netns`: its name under /run/netns, or the path of a file such as /proc/4242/ns/net. `born`:
    when the process that such a path names had started, in clock ticks since boot: a later one
    with the same number is another. `since` is in RFC 3339.
    """

    netns: str
    address: str
    device: str = "eth0"
    default_route: bool = True
    born: int = 0
    since: str = ""
    address6: str = ""  # in a dual-stack lab, when asked for

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses on the underlay, one of each family."""
        return tuple(filter(None, (self.address, self.address6)))

    @property
    def command(self) -> str:
        """The command that made it."""
        options = ["--address", self.address]
        if self.address6:
            options += ["--address6", self.address6]
        if self.device != "eth0":
            options += ["--device", self.device]
        if not self.default_route:
            options.append("--no-default-route")
        return " ".join(("netlab attach", self.netns, *options))

    @property
    def undo(self) -> str:
        """The command that undoes it."""
        return f"netlab detach {self.netns}"

    @property
    def words(self) -> str:
        """What there is, as a sentence: `namespace box is attached as 192.168.50.60, by eth0`."""
        addresses = " and ".join(self.addresses)
        return f"namespace {self.netns} is attached as {addresses}, by {self.device}"
