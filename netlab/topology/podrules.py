"""What must agree within one Kubernetes object that is, or makes, pods.

Tolerates values of the wrong form: those are already noted.
"""

from __future__ import annotations

from typing import Any

from netlab.model.kubernetes import LabelSelector, selects
from netlab.topology import dnsfields, values
from netlab.topology.labrules import Say, items
from netlab.topology.tree import Path

DEFAULT_PROTOCOL = "TCP"
TEMPLATED = ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job")


def check(document: dict[str, Any], say: Say) -> None:
    """Say everything in which *document*, a Pod or what makes pods, contradicts itself."""
    if document["kind"] in TEMPLATED:
        _check_template(document, say)
    spec, path = pod_spec(document)
    _check_container_names(spec, path, say)
    _check_ports(spec, path, say)
    _check_probes(spec, path, say)
    dnsfields.check(spec, path, say)


def mapping(value: Any, *names: str) -> dict[str, Any]:
    """Return the mapping at *names* inside *value*, empty if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def pod_spec(document: dict[str, Any]) -> tuple[dict[str, Any], Path]:
    """Return the spec of the pods that *document* is or makes, and its field."""
    if document["kind"] in TEMPLATED:
        return mapping(document, "spec", "template", "spec"), ("spec", "template", "spec")
    return mapping(document, "spec"), ("spec",)


def _check_template(document: dict[str, Any], say: Say) -> None:
    selector = mapping(document, "spec").get("selector")
    if isinstance(selector, dict) and mapping(document, "spec", "template"):
        labels = mapping(document, "spec", "template", "metadata", "labels")
        _check_selector(selector, labels, say)
    policy = mapping(document, "spec", "template", "spec").get("restartPolicy", "Always")
    where: Path = ("spec", "template", "spec", "restartPolicy")
    if document["kind"] == "Job":
        if policy == "Always":
            say(where, "Always in a Job (OnFailure or Never)")
    elif policy in ("OnFailure", "Never"):
        say(where, f"{policy} in a template (Always)")
    _check_strategy(document, say)


def _check_strategy(document: dict[str, Any], say: Say) -> None:
    """Check what an API server refuses: apps/validation/validation.go."""
    field = "strategy" if document["kind"] == "Deployment" else "updateStrategy"
    strategy = mapping(document, "spec", field)
    rolling = strategy.get("rollingUpdate")
    if rolling and strategy.get("type", "RollingUpdate") != "RollingUpdate":
        say(("spec", field, "rollingUpdate"), f"with type {strategy['type']} (leave it out)")
    limits = [mapping(rolling).get(name) for name in ("maxSurge", "maxUnavailable")]
    if document["kind"] == "Deployment" and all(one in (0, "0%") for one in limits):
        where = ("spec", field, "rollingUpdate", "maxUnavailable")
        say(where, "may not be 0 when maxSurge is 0 (1, or a maxSurge)")


def _check_selector(selector: dict[str, Any], labels: dict[str, Any], say: Say) -> None:
    """Check that the selector of a workload matches the *labels* of its own template."""
    if not selector.get("matchLabels") and not selector.get("matchExpressions"):
        say(("spec", "selector"), "selects every pod (matchLabels with the template's labels)")
    for key, wanted in mapping(selector, "matchLabels").items():
        if labels.get(key, "") != wanted and isinstance(labels.get(key, ""), str):
            has = f"{key}: {labels[key]}" if key in labels else f"no label {key}"
            say(
                ("spec", "selector", "matchLabels", key),
                f"the template has {has} (the selector must match its labels)",
            )
    for index, expression in items(selector.get("matchExpressions")):
        known = expression.get("operator") in values.SELECTOR_OPERATORS
        if known and not selects(LabelSelector(matchExpressions=[expression]), labels):
            say(
                ("spec", "selector", "matchExpressions", index),
                "the template's labels do not match (the selector must match them)",
            )


def _check_container_names(spec: dict[str, Any], path: Path, say: Say) -> None:
    first: dict[str, str] = {}
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in items(spec.get(group)):
            name, here = container.get("name"), f"{group}[{index}]"
            if isinstance(name, str) and first.setdefault(name, here) != here:
                where: Path = (*path, group, index, "name")
                say(where, f"{name} is also {first[name]} (another name)")


def _check_ports(spec: dict[str, Any], path: Path, say: Say) -> None:
    """Kubernetes accepts one port in two containers; but they share one network stack."""
    ports: dict[tuple[Any, Any], str] = {}
    names: dict[str, str] = {}
    for group, index, container in _listening(spec):
        for number, entry in items(container.get("ports")):
            where: Path = (*path, group, index, "ports", number)
            here = f"{group}[{index}].ports[{number}]"
            key = (entry.get("containerPort"), str(entry.get("protocol", DEFAULT_PROTOCOL)).upper())
            if isinstance(key[0], int) and ports.setdefault(key, here) != here:
                say(
                    (*where, "containerPort"),
                    f"{key[0]}/{key[1]} is also {ports[key]} "
                    "(another port: the containers of a pod share one network stack)",
                )
            name = entry.get("name")
            if isinstance(name, str) and names.setdefault(name, here) != here:
                say((*where, "name"), f"{name} is also the name of {names[name]} (another name)")
            outer = entry.get("hostPort") or key[0]
            if spec.get("hostNetwork") is True and isinstance(outer, int) and outer != key[0]:
                text = f"{outer} is not containerPort {key[0]} (the same: hostNetwork has no other)"
                say((*where, "hostPort"), text)


HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")


def _check_probes(spec: dict[str, Any], path: Path, say: Say) -> None:
    """Check what an API server refuses of probes: core/validation/validation.go, validateProbe."""
    for group, index, container in _listening(spec):
        names = (port.get("name") for _, port in items(container.get("ports")))
        named = sorted({name for name in names if isinstance(name, str)})
        for field in ("readinessProbe", "livenessProbe", "startupProbe"):
            probe = container.get(field)
            if not isinstance(probe, dict):
                continue
            where: Path = (*path, group, index, field)
            given = [name for name in HANDLERS if name in probe]
            if len(given) != 1:
                has = " and ".join(given) or "no handler"
                say(where, f"has {has} (one of exec, httpGet, tcpSocket)")
            if "grpc" in probe and container.get("command"):
                say((*where, "grpc"), "netlab asks no program by gRPC yet (tcpSocket)")
            if field != "readinessProbe" and probe.get("successThreshold", 1) != 1:
                say((*where, "successThreshold"), f"{probe['successThreshold']} (must be 1)")
            for name in given:
                port = mapping(probe, name).get("port")
                if isinstance(port, str) and port not in named:
                    known = ", ".join(named) or "none"
                    say((*where, name, "port"), f"no port is called {port} (known: {known})")


def _listening(spec: dict[str, Any]) -> list[tuple[str, int, dict[str, Any]]]:
    """Return the containers that run at the same time: group, index, container."""
    sidecars = [
        ("initContainers", index, container)
        for index, container in items(spec.get("initContainers"))
        if container.get("restartPolicy") == "Always"
    ]
    return [*sidecars, *(("containers", i, c) for i, c in items(spec.get("containers")))]
