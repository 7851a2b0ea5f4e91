"""pytest's plugin where no lab is brought up: what it costs, and what it says of mistakes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import yaml

from netlab.errors import CapabilityError, InputError, NetlabError, NotFoundError
from netlab.testing import labs
from netlab.testing.calls import raised
from netlab.testing.keeper import failure

pytest_plugins = ["pytester"]
# In here before pytester's runs: each forgets what it imported, which yaml's C part cannot take.
assert labs and yaml

LAB = """apiVersion: netlab/v1
kind: Lab
metadata: {name: small}
nodes: [{name: n1}]
"""


def test_a_run_without_labs_imports_nothing_of_netlab(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_nothing(): pass")
    pytester.makeconftest("""
        import sys
        def pytest_sessionfinish():
            print(sorted(name for name in sys.modules if name.partition(".")[0] == "netlab"))
    """)
    done = pytester.runpytest_subprocess("-s")
    done.stdout.fnmatch_lines(["*['netlab', 'netlab.testing', 'netlab.testing.plugin']*"])


@pytest.mark.parametrize(
    ("marker", "mistake"),
    [
        ("()", "no topology (@pytest.mark.netlab(*"),
        ("(3)", "3 is no path (*"),
        ('("lab.yaml", mode="nftables")', "no keyword mode (there are: proxy_mode, scope)"),
        ('("lab.yaml", scope="package")', "scope 'package': not known (function, class, *"),
        (
            '("lab.yaml", proxy_mode="fast")',
            "proxy_mode 'fast': not known (iptables or nftables or*",
        ),
        ('("lab.yaml", proxy_mode=[])', "proxy_mode: an empty list (*"),
        ('("lab.yaml", proxy_mode=["nftables", 4])', "proxy_mode 4: not known (*"),
        ('("lab.yaml", proxy_mode=["nftables", "nftables"])', "proxy_mode: one of them twice"),
    ],
)
def test_a_wrong_marker_is_a_usage_error_that_says_where(
    pytester: pytest.Pytester, marker: str, mistake: str
) -> None:
    pytester.makefile(".yaml", lab=LAB)
    pytester.makepyfile(
        test_it=f"import pytest\n\n@pytest.mark.netlab{marker}\ndef test_it(lab): pass\n"
    )
    done = pytester.runpytest_inprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(
        [f"ERROR: test_it.py:3: netlab marker: {mistake.replace('[', '[[]')}"]
    )


def test_every_mistake_in_every_file_is_told_at_once_as_up_tells_it(
    pytester: pytest.Pytester,
) -> None:
    pytester.makefile(".yaml", lab=LAB.replace("n1", "N 1"), more="kind: Pod\n", good=LAB)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.netlab("good.yaml")
        def test_good(lab): pass

        @pytest.mark.netlab("lab.yaml", proxy_mode=["iptables", "nftables"])
        def test_one(lab): pass

        @pytest.mark.netlab("more.yaml")
        def test_two(lab): pass

        @pytest.mark.netlab("missing.yaml")
        def test_three(lab): pass
    """)
    done = pytester.runpytest_inprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in done.stderr.lines if "yaml" in line]
    assert [line.removeprefix("ERROR: ").partition(": ")[0] for line in lines] == [
        "lab.yaml:4",
        "more.yaml:1",
        "missing.yaml",
    ]
    up = subprocess.run(
        [sys.executable, "-m", "netlab", "up", "lab.yaml"],
        cwd=pytester.path,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert up.stderr.splitlines()[0] == lines[0].removeprefix("ERROR: ")


def test_a_test_that_was_not_chosen_needs_no_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.netlab("missing.yaml")
        def test_one(lab): pass

        def test_two(): pass
    """)
    pytester.runpytest_inprocess("-k", "two").assert_outcomes(passed=1, deselected=1)


def test_modes_are_the_tests_ids(pytester: pytest.Pytester) -> None:
    pytester.makefile(".yaml", lab=LAB)
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.netlab("lab.yaml", proxy_mode=["iptables", "nftables"])

        def test_both(lab): pass

        @pytest.mark.netlab("lab.yaml", proxy_mode="nftables")
        def test_one(lab): pass

        def test_without(): pass

        @pytest.fixture
        def web(lab): pass

        def test_through_a_fixture(web): pass
    """)
    done = pytester.runpytest_inprocess("--collect-only", "-q", "--strict-markers")
    ids = [line.rpartition("::")[2] for line in done.stdout.lines if "::" in line]
    assert ids == [
        *("test_both[iptables]", "test_both[nftables]", "test_one", "test_without"),
        *("test_through_a_fixture[iptables]", "test_through_a_fixture[nftables]"),
    ]


def test_a_fixture_called_lab_of_somebody_else_is_left_alone(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.fixture
        def lab(): return 7

        def test_it(lab): assert lab == 7
    """)
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_test_without_marker_is_told_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(lab): pass")
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*test_a_test_without*.py:1: no marker netlab (add one: *"])


LACKING = """
    import pytest
    from netlab.errors import CapabilityError
    from netlab.testing.calls import Keeper

    @pytest.fixture(autouse=True, scope="session")
    def machine():
        def ask(keeper, do, kind, **given):
            raise CapabilityError("no user namespaces", hint="netlab doctor")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Keeper, "ask", ask)
            yield

    @pytest.mark.netlab("lab.yaml", proxy_mode=["iptables", "nftables"])
    def test_it(lab): pass
"""


@pytest.mark.parametrize(
    ("options", "outcomes", "line"),
    [
        ((), {"skipped": 2}, "2 tests skipped: netlab: no user namespaces (hint: netlab doctor)"),
        (("--netlab-require",), {"errors": 2}, "netlab: no user namespaces (hint: netlab *"),
    ],
)
def test_a_machine_that_cannot_have_labs_skips_with_a_word_or_fails(
    pytester: pytest.Pytester, options: tuple[str, ...], outcomes: dict[str, int], line: str
) -> None:
    pytester.makefile(".yaml", lab=LAB)
    pytester.makepyfile(LACKING)
    done = pytester.runpytest_inprocess(*options)
    done.assert_outcomes(**outcomes)
    done.stdout.fnmatch_lines([line])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NotFoundError("no pod x", hint="y"), NotFoundError),
        (CapabilityError("no user namespaces"), CapabilityError),
        (InputError(["a.yaml:1: x", "a.yaml:2: y"]), InputError),
        (ConnectionRefusedError(111, "a -> b: connection refused"), ConnectionRefusedError),
        (TimeoutError("no answer within 2 s"), TimeoutError),
        (KeyError("odd"), NetlabError),
    ],
)
def test_an_error_is_the_same_behind_the_keeper(error: Exception, kind: type[Exception]) -> None:
    found = raised(failure(error))
    assert type(found) is kind
    if isinstance(error, (NetlabError, OSError)):
        assert str(found) == str(error)
