"""What stopped a flow, in a lab of several machines: each looks at what is on it.

`python -m netlab.tracing.part LAB` reads a `Case` as JSON and prints that machine's stages.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
from msgspec.structs import replace

from netlab.cluster import Cluster
from netlab.errors import NetlabError
from netlab.journeys import Cause, Journey, Seen
from netlab.packets import Flow
from netlab.paths import Place
from netlab.sensors.sending import Question
from netlab.telling.selecting import Opening
from netlab.tracing.asking import Asking, Destination
from netlab.tracing.shot import Machines
from netlab.tracing.stages import Live, stages, way_of

HEADERS = 160  # bytes: an envelope, and in it an ICMP error with the headers that it quotes


class Case(msgspec.Struct, frozen=True):
    """A conversation that was not answered: who asked whom, what was seen of it, and the reason
    that the kernel of the sender's machine gave."""

    source: Place
    destination: Destination
    flow: Flow
    journey: Journey
    dropped: tuple[str, ...] = ()


def joined(
    live: Live,
    cluster: Cluster,
    asked: Asking,
    journey: Journey,
    dropped: Sequence[str],
    machines: Machines,
) -> list[list[Cause]]:
    """Return the stages of this machine, and in each what the other ones on the way add.

    Raises NetlabError when one of them does not answer.
    """
    way = way_of(cluster, asked, journey)
    others = [one for one in dict.fromkeys(map(machines.machine, way.netns)) if one]
    told = without_payload(journey)
    case = Case(asked.source, asked.destination, asked.flow, told, tuple(dropped))
    question = {"do": "look", "case": msgspec.to_builtins(case)}
    with ThreadPoolExecutor(max(len(others), 1)) as pool:
        asking = [pool.submit(machines.asks[one], question) for one in others]
        mine = stages(
            *(live, cluster, asked, journey, dropped),
            here=lambda netns: not (netns and machines.machine(netns)),
        )
        theirs = [msgspec.convert(one.result()["stages"], list[list[Cause]]) for one in asking]
    return merged([mine, *theirs])


def without_payload(journey: Journey) -> Journey:
    """Return a journey whose frames end behind the headers: nobody asks for what is behind."""
    tracks = tuple(
        replace(
            track,
            steps=tuple(
                replace(one, frame=one.frame[:HEADERS]) if isinstance(one, Seen) else one
                for one in track.steps
            ),
        )
        for track in journey.tracks
    )
    return replace(journey, tracks=tracks)


def merged(found: Sequence[Sequence[Sequence[Cause]]]) -> list[list[Cause]]:
    """Return the stages of several machines as one: of each stage, theirs one after the other."""
    most = max(map(len, found))
    return [
        [cause for one in found if number < len(one) for cause in one[number]]
        for number in range(most)
    ]


def looked(live: Live, case: Case, machines: Machines) -> list[list[Cause]]:
    """Return the stages of *case* as far as they are of this machine, one that did not ask."""
    asked = Asking(
        *(case.source, case.destination, case.flow),
        opening=Opening(case.flow.protocol),
        token=b"",
        question=Question(),
    )
    return stages(
        *(live, machines.cluster(), asked, case.journey, case.dropped),
        here=lambda netns: bool(netns) and not machines.machine(netns),
    )


def main() -> int:
    from netlab.lab.live import connect
    from netlab.verify.across import across

    case = msgspec.json.decode(sys.stdin.buffer.read(), type=Case)
    try:
        live = connect(sys.argv[1])
        with across(live) as machines:
            found = looked(live, case, machines)
    except NetlabError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
