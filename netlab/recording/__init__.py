"""A capture as it runs: who is watched, what is written, when it ends, what is said of it all.

1. The loop takes what has settled in the rings and writes it; nothing else happens in its thread
   that could take longer than the rings have room for. Who is watched, what the filter's names
   mean, and which rules were met are found out by other threads.
2. Comments are added to a file when the capture has ended, to a stream at once, as long as that
   keeps up: a stream that falls behind goes on without them, and how many lack them is told.
3. Namespaces and devices that appear are watched from then on, if the words of the command mean
   them; those that go are let go.

`wishes` is what is asked for and what it means, `loop` the capture itself, `wide` what captures on
other machines of the lab add to it.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext

from msgspec.structs import replace

from netlab import faults
from netlab.errors import NotFoundError, UsageError
from netlab.filters.flows import flows
from netlab.kernel import lookup
from netlab.kernel.netns import entered, exists
from netlab.lab.live import Live
from netlab.model.lab import Lab
from netlab.recording import wide
from netlab.recording.loop import MIB, Recording, Summary
from netlab.recording.wishes import Follower, Meant, Wish, meant
from netlab.sensors import pcapfiles
from netlab.sensors.pcapfiles import About, File, Output
from netlab.sensors.rulewatch import RuleWatch
from netlab.sensors.taps import Taps
from netlab.targets import Target

__all__ = ["Summary", "Wish", "meant", "record"]


def record(
    live: Live,
    wish: Wish,
    *,
    stopped: Callable[[], bool],
    began: Callable[[Taps], None] = lambda taps: None,
    progress: Callable[[str], None] = lambda words: None,
) -> Summary:
    """Capture what *wish* says until *stopped* or a bound; return what came of it.

    Raises NotFoundError, UsageError before anything is written; CapabilityError; OSError for a
    file that cannot be written, BrokenPipeError when the reader of the stream has gone.
    """
    cluster = live.cluster()
    first = meant(cluster, wish)
    alone = wish.here or live.place is None
    there = {} if alone else wide.elsewhere(live, first.targets)
    if there:
        if wish.rules:
            hint = f"there, or without --rules: this machine traces its own; {', '.join(there)}"
            raise UsageError("rules of other machines are not told", hint=hint)
        wish = replace(wish, filter=wide.without_etcd(live, wish.filter))
        first = meant(cluster, wish)
    for one in first.targets:
        _have_devices(one)
    _raise_open_files()
    with ExitStack() as stack:
        streams = wide.streams(live, wish, there)
        taps = (
            wide.WideTaps(first.code, streams, snaplen=wish.snaplen)
            if streams
            else Taps(first.code, snaplen=wish.snaplen)
        )
        stack.callback(taps.close)
        watch = _rule_watch(first) if wish.rules else None
        if not streams:
            _have_somebody(cluster.lab, first.targets)
        with watch or nullcontext():
            taps.follow(first.targets)
            recording = Recording(taps, _output(wish), wish, first, watch)
            follower = Follower(live, wish, first)
            stack.callback(follower.end)
            began(taps)
            recording.run(follower, stopped)
        recording.finish()
    return recording.commented(progress)


def _have_somebody(lab: Lab, asked: Sequence[Target]) -> None:
    """Raise NotFoundError when none of those *asked* for is there, naming a node that is off.

    One of several may be: it is watched when it is back.
    """
    if not asked or any(exists(one.netns) for one in asked):
        return
    for one in asked:
        faults.require_power(lab, one.node)
    raise NotFoundError(f"{asked[0].title} is not there", hint="netlab status")


def _have_devices(target: Target) -> None:
    """Raise NotFoundError for a device that was asked for and is not there."""
    if not target.devices or not exists(target.netns):
        return
    with entered(target.netns):
        there = lookup.interfaces()
    for name in sorted(target.devices - there.keys()):
        hint = f"it has {', '.join(there)}"
        raise NotFoundError(f"{target.title} has no device {name}", hint=hint)


def _rule_watch(first: Meant) -> RuleWatch:
    """Pods have no rules of their own: of all others the rules are told."""
    places = [one.netns for one in first.targets if not one.pod]
    if not places:
        raise UsageError("no rules to tell: only pods are captured", hint="add node/NAME")
    traced = flows(first.tree)
    if not traced:
        raise UsageError("no rules to tell: the filter takes no TCP, UDP or ICMP")
    return RuleWatch(places, traced)


def _raise_open_files() -> None:
    """Each namespace takes a descriptor, and the usual limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _output(wish: Wish) -> Output:
    about = About(wish.snaplen, wish.filter)
    if wish.path is None:
        return File(wish.stream, about)
    if wish.ring:
        most = int(wish.ring * MIB)
        return pcapfiles.Ring(wish.path, about, most=most, keep=wish.files)
    return File(pcapfiles.create(wish.path), about)
