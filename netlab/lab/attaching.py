"""Foreign namespaces plugged into a running lab: what is refused before anything is changed."""

from __future__ import annotations

from msgspec.structs import replace

from netlab import attachments, rootless
from netlab.controllers.change import now
from netlab.errors import CapabilityError, KernelError, NotFoundError, UsageError
from netlab.kernel import foreign, netns
from netlab.lab.directory import names
from netlab.lab.live import Live
from netlab.model.attachments import Attachment

HERE = "/proc/self/ns/net"


def attach(
    live: Live, word: str, addresses: tuple[str, str], *, device: str, default_route: bool = True
) -> Attachment:
    """Plug the namespace that *word* names into the lab's underlay; return how.

    *addresses*: of IPv4, and of IPv6 or "".

    Raises NotFoundError when there is none, UsageError for what cannot be plugged in there,
    CapabilityError for what this user may not enter.
    """
    if live.lab.spread:
        raise UsageError(f"lab {live.name} is on several machines: its underlay is not netlab's")
    name = attachments.named(word)
    address, address6 = addresses
    wanted = Attachment(name, address, device, default_route, since=now(), address6=address6)
    attachments.require_room(live.lab, wanted)
    there = _inside(live, name)
    _require_foreign(name)
    if device in there.links:
        taken = ", ".join(sorted(there.links))
        raise UsageError(
            f"{name} has a device {device} already", hint=f"--device NAME; it has: {taken}"
        )
    if default_route and (default := there.default or (address6 and there.default6)):
        raise UsageError(
            f"{name} has a default route already: {default}",
            hint="--no-default-route leaves it; the lab's segments are reached all the same",
        )
    wanted = replace(wanted, born=foreign.born(name))
    live.attach(wanted)
    return wanted


def detach(live: Live, word: str) -> Attachment:
    """Take the namespace that *word* names out of the underlay; return how it was plugged in.

    Raises NotFoundError when it is not.
    """
    name = attachments.named(word)
    for one in live.lab.attached:
        if one.netns == name:
            live.detach(name)
            return one
    there = ", ".join(one.netns for one in live.lab.attached)
    raise NotFoundError(
        f"{name} is not attached to lab {live.name}",
        hint=f"attached: {there}" if there else "netlab attach NETNS --address A",
    )


def candidates(live: Live) -> list[str]:
    """Return the namespaces with a name that could be attached: no lab's, and not attached."""
    known = {one.netns for one in live.lab.attached}
    return [name for name in netns.names() if not _lab_of(name) and name not in known]


def _inside(live: Live, name: str) -> foreign.Inside:
    try:
        return foreign.inside(name)
    except KernelError as error:
        hint = ", ".join(candidates(live)) or "ip netns add NAME makes one"
        raise NotFoundError(error.message, hint=hint) from error
    except (CapabilityError, PermissionError) as error:
        if not rootless.inside():
            raise
        raise CapabilityError(
            f"{name}: it belongs to another user namespace than this user's labs",
            hint="without root only a namespace made in the labs' own can be attached: "
            "python3 -m netlab.rootless ip netns add NAME",
        ) from error


def _require_foreign(name: str) -> None:
    """Raise UsageError for a namespace that is netlab's own, a lab's, or attached already."""
    number = netns.identity(name)
    if number == netns.identity(HERE):
        raise UsageError(
            f"{name} is the network namespace that netlab itself runs in: that is never changed"
        )
    for other in netns.names():
        lab = _lab_of(other)
        if lab and netns.identity(other) == number:
            called = "" if name == other else f"{other}, "
            raise UsageError(f"{name} is {called}a namespace of lab {lab}")
    for lab in names():
        for one in Live(lab).lab.attached if _is_up(lab) else ():
            if netns.identity(one.netns) == number:
                words = f"{name} is attached already, to lab {lab} as {one.address}"
                raise UsageError(words, hint=f"{one.undo} -L {lab}")


def _is_up(lab: str) -> bool:
    try:
        Live(lab)
    except (NotFoundError, OSError):
        return False
    return True


def _lab_of(name: str) -> str:
    """Return the lab that a namespace called *name* is of, "" for none."""
    return next((lab for lab in names() if name.startswith(f"{lab}.")), "")
