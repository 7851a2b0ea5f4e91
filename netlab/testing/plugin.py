"""What pytest calls. Registered as a plugin wherever kube-netlab is installed, so a run that uses
no lab must not notice: nothing else of netlab is imported before a test has the marker.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from netlab.errors import CapabilityError
    from netlab.testing.lab import Lab
    from netlab.testing.labs import LabFactory
    from netlab.testing.marks import Marked

MARKER = (
    "netlab(topology, ..., proxy_mode=MODE or [MODE, ...], scope='module'): the lab that the "
    "fixture `lab` gives; paths are relative to the test's file"
)
PREFIX = "netlab: "  # of the reason of each of our skips
_factory: pytest.StashKey[LabFactory] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("netlab", "labs of network namespaces")
    group.addoption(
        "--netlab-dir",
        metavar="DIR",
        help="Where traces, rules and captures of failing tests go (default: pytest's cache).",
    )
    group.addoption(
        "--netlab-require",
        action="store_true",
        help="Fail where this machine cannot have a lab, instead of skipping.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that names several modes once in each. What is wrong is told in the end."""
    mark = metafunc.definition.get_closest_marker("netlab")
    if mark is None or "lab" not in metafunc.fixturenames:
        return
    from netlab.testing import marks

    if modes := marks.modes(mark):
        metafunc.parametrize("lab", modes, indirect=True, ids=[str(mode) for mode in modes])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check every marker, and read every file, before the first test: all mistakes at once."""
    if hasattr(session.config, "workerinput"):
        return  # of pytest-xdist: a worker can only say so test by test
    if any(item.get_closest_marker("netlab") for item in session.items):
        from netlab.testing import marks

        if mistakes := marks.mistakes(session.items, _declared):
            raise pytest.UsageError("\n".join(mistakes))


def _declared(wanted: Marked, folder: Path) -> object:
    from netlab.testing import labs

    return labs.declaration(wanted.sources, folder)


@pytest.fixture(scope="session")
def lab_factory(request: pytest.FixtureRequest) -> Iterator[LabFactory]:
    """Make labs: `lab_factory("lab.yaml")`, or with YAML itself; taken down when the run ends,
    or earlier by `lab.down()`, or by `with lab_factory(…) as lab:`."""
    from netlab.testing import labs

    with labs.factory(_missing(request.config)) as factory:
        request.config.stash[_factory] = factory
        yield factory


def _missing(config: pytest.Config) -> Callable[[CapabilityError], NoReturn]:
    def missing(error: CapabilityError) -> NoReturn:
        if config.getoption("netlab_require"):
            pytest.fail(f"{PREFIX}{error}", pytrace=False)
        pytest.skip(f"{PREFIX}{error}")

    return missing


def _shelf(scope: Any) -> Any:
    """Return the fixture that keeps the labs tests share, until its scope ends."""

    @pytest.fixture(scope=scope, name=f"_netlab_{scope}")
    def shelf(lab_factory: LabFactory) -> Iterator[dict[object, Lab]]:
        labs: dict[object, Lab] = {}
        yield labs
        for lab in labs.values():
            lab.down()

    return shelf


_of_function, _of_class, _of_module, _of_session = map(
    _shelf, ("function", "class", "module", "session")
)


@pytest.fixture
def lab(request: pytest.FixtureRequest, lab_factory: LabFactory) -> Lab:
    """The lab that the test's marker names, shared by the tests of one file that name it so."""
    from netlab.errors import NetlabError
    from netlab.testing import marks

    mark = request.node.get_closest_marker(marks.NAME)
    where = marks.place(request.node)
    if mark is None:
        pytest.fail(f"{where}: no marker netlab (add one: {marks.EXAMPLE})", pytrace=False)
    try:
        found, wrong = _lab(request, lab_factory, mark), ""
    except NetlabError as error:
        wrong = f"{where}: {marks.said(error)}"
    if wrong:
        pytest.fail(wrong, pytrace=False)
    found.used = True
    return found


def _lab(request: pytest.FixtureRequest, lab_factory: LabFactory, mark: pytest.Mark) -> Lab:
    """Return the lab that *mark* names, from where it is shared. Raises NetlabError."""
    from netlab.testing import labs, marks

    wanted = marks.marked(mark, request.path.parent)
    mode = getattr(request, "param", "") or "".join(wanted.modes[:1])
    shelf: dict[object, Lab] = request.getfixturevalue(f"_netlab_{wanted.scope}")
    found = shelf.get((wanted.sources, mode))
    if found is None or not found.is_up:
        declared = labs.declaration(wanted.sources, request.path.parent)
        found = shelf[wanted.sources, mode] = lab_factory.up(declared, proxy_mode=mode)
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have what is shown and recorded begin anew with each test."""
    factory = item.config.stash.get(_factory, None)
    for lab in factory.labs() if factory else ():
        lab.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give a failing test that used a lab what was seen of it."""
    factory = item.config.stash.get(_factory, None)
    if factory is None or call.excinfo is None or call.when == "teardown":
        return (yield)
    from netlab.testing import evidence

    used = [lab for lab in factory.labs() if lab.used]
    told = evidence.explain(call.excinfo.value, used)
    report = yield
    if report.failed and used:
        evidence.attach(report, evidence.directory(item.config, item.nodeid), used, told=told)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why labs could not be had, also without -rs: no skip of ours is silent."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = words.removeprefix("Skipped: ")
        if reason.startswith(PREFIX):
            reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        tests = "test" if count == 1 else "tests"
        terminalreporter.write_line(f"{count} {tests} skipped: {reason}", yellow=True)
