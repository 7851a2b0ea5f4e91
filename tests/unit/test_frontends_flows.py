"""Every row of the table of packets, decided without a kernel."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from flow_cases import MORE, Row, cases, decision, masquerades, outcome, rows

from netlab.proxy import Mode, Verdict
from netlab.proxy.addresses import Family

ROWS = [*rows(), *(row for row in rows(MORE) if not row.flow.get("running"))]

# What only live packets can tell, beside what is decided here.
LIVE_TOO = {
    "the same endpoint each time": lambda row: row.flow.get("selection") == "one-for-all",
    "a running flow moves": lambda row: row.flow.get("keep_sending"),
    "conntrack's state": lambda row: row.flow.get("special"),
    "arrives unaltered": lambda row: row.flow.get("direct_to"),
    "an HTTP answer": lambda row: row.flow.get("http"),
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_row_holds(row: Row) -> None:
    found = outcome(row)
    if isinstance(row.expected, str):
        assert found.verdict == row.expected
        return
    assert found.verdict is Verdict.ENDPOINTS
    if row.flow.get("selection") == "one-for-all":
        assert all(one.service.affinity for one in row.decision.frontends)
    assert sorted(found.endpoints) == sorted(row.expected)
    expected = masquerades(row.flow["masqueraded"])
    seen = {one: found.endpoints[one] for one in found.endpoints if one in expected}
    assert seen == {one: it for one, it in expected.items() if one != "*"}
    if "*" in expected:
        assert set(found.endpoints.values()) == {expected["*"]}


def test_every_mode_has_rows(capsys: pytest.CaptureFixture[str]) -> None:
    modes = Counter(row.mode for row in ROWS)
    partly = Counter(why for row in ROWS for why, holds in LIVE_TOO.items() if holds(row))
    with capsys.disabled():
        print(f"\nflows: {len(ROWS)} rows decided, of which live packets are to tell more:")
        print("\n".join(f"  {count} {why}" for why, count in partly.items()))
        print(f"  {sum(len(case.get('entry_facts', ())) for case in cases())} facts of conntrack")
    least = {Mode.IPTABLES: 100, Mode.NFTABLES: 100, Mode.IPVS: 60}  # upstream's tests of it: fewer
    assert all(modes[mode] > number for mode, number in least.items())


HTTP = [row for row in ROWS if row.flow.get("http")]


@pytest.mark.parametrize("row", HTTP, ids=lambda row: row.id)
def test_health_check_answers(row: Row) -> None:
    (check,) = decision(row.given, row.mode, row.given["proxy"]["node"]).health_checks
    assert check.port == int(row.flow["to"].partition("/")[0].rpartition(":")[2])
    assert check.status == row.flow["http"]["status"]
    assert row.flow["http"]["json"].items() <= json.loads(check.body).items()


FACTS = [
    (case, fact) for case in cases() for fact in case.get("rule_facts", ()) if "ipvs" not in fact
]


@pytest.mark.parametrize(
    ("case", "fact"), FACTS, ids=[f"{case['id']}-{fact['rule'][:30]}" for case, fact in FACTS]
)
def test_rule_facts(case: dict, fact: dict) -> None:  # type: ignore[type-arg]
    given = case["given"]
    found = decision(given, Mode.IPTABLES, given["proxy"]["node"])
    match fact["rule"]:
        case "set of health check ports":
            assert sorted({one.port for one in found.health_checks}) == fact["value"]
        case "KUBE-FIREWALL loopback guard":
            off = {**given, "proxy": {**given["proxy"], "localhost_nodeports": fact["present"]}}
            situations = decision(off, Mode.IPTABLES, given["proxy"]["node"]).situations
            assert situations[Family.IPV4].route_localnet is fact["present"]
            assert not situations[Family.IPV6].route_localnet
        case rule if rule.startswith("any rule naming"):
            assert found.frontends == ()
        case _:
            pytest.skip(f"a renderer's: {fact['rule']}")
