"""Tests that use a lab: pytest's plugin, and the objects its fixtures give.

    plugin     what pytest calls: fixtures, marker, options, failing tests (imports nothing else
               before a test uses a lab)
    marks      what `@pytest.mark.netlab(…)` says, and what is wrong with it
    labs       which labs are up, for whom, under names of their own
    lab        a lab as a test sees it; `machines`: its pods, nodes and the world around them
    changes    what a test does to it while it runs; `commanding`: by the command line's words
    ways       a traced conversation, to be asserted about
    answers    what comes back: plain data
    evidence   what is kept of a failing test
    calls      a lab's keeper, as the tests' process sees it
    keeper     that process, which holds one lab: `python -m netlab.testing.keeper`
    held       its lab; `recording`: the lab's frames
    deeds      what it can be asked to do; `questions`: from a pod or another place of the lab,
               `executing`: programs there, `inspection`: what nodes hold, `tracing`: the way
               of a packet
    names      which address a word means to somebody who asks; `service`: a Service as it is now

A lab is held by a process of its own, and everything a test asks is asked there:

1. The tests' process never changes its namespaces, threads or signals; without root the keeper
   enters the user's namespaces, which a process with threads (pytest-xdist's) could not.
2. The keeper takes its lab down when its input ends, so also when the test run was killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netlab.testing.answers import Answer, Endpoint, Port, Response, Service
    from netlab.testing.lab import Lab, Verification
    from netlab.testing.labs import LabFactory
    from netlab.testing.machines import Machine
    from netlab.testing.ways import Trace

__all__ = [
    "Answer",
    "Endpoint",
    "Lab",
    "LabFactory",
    "Machine",
    "Port",
    "Response",
    "Service",
    "Trace",
    "Verification",
]

_HOME = {
    "Lab": "lab",
    "LabFactory": "labs",
    "Machine": "machines",
    "Trace": "ways",
    "Verification": "lab",
}


def __getattr__(name: str) -> object:
    """Import what a test annotates with when it is asked for: a run without labs pays nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'answers')}"), name)
