"""The fields of Ingress, IngressClass, Secret and the Gateway API's kinds.

Source: k8s.io/api networking/v1/types.go, kubernetes pkg/apis/networking/validation (v1.30);
sigs.k8s.io/gateway-api apis/v1, whose fields that netlab does not serve are let in: the controller
says in a condition that it does not.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from netlab.topology import values
from netlab.topology.shapes import ANY_LIST, ANY_MAPPING, Each, Fields, Pairs, Shape

PATH_TYPES = ("Exact", "Prefix", "ImplementationSpecific")
CONTROLLER_MAX = 250  # characters of spec.controller
_BASE64 = re.compile(r"([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def host(value: Any) -> str:
    """Accept a host name: `shop.example`, or `*.shop.example` for one more label."""
    if wrong := values.string(value):
        return wrong
    try:
        ip_address(value)
    except ValueError:
        name = value.removeprefix("*.")
        if "*" in name:
            return f"{value}: a * only stands for the whole first label (*.{name.strip('*.')})"
        return values.subdomain(name)
    return f"{value} is an IP address (a host name, or leave it out)"


def controller(value: Any) -> str:
    """Accept the name of a controller: `k8s.io/ingress-nginx`."""
    if wrong := values.string(value):
        return wrong
    domain, slash, path = value.partition("/")
    if len(value) > CONTROLLER_MAX:
        return f"is {len(value)} characters long (at most {CONTROLLER_MAX})"
    if not slash or not path or values.subdomain(domain):
        return f"{value} is not a domain with a path (such as k8s.io/ingress-nginx)"
    return ""


def base64(value: Any) -> str:
    """Accept base64, with line ends."""
    if wrong := values.string(value):
        return wrong
    if _BASE64.fullmatch(re.sub(r"\s", "", value)):
        return ""
    return "is not base64 (plain text belongs in stringData)"


_BACKEND = Fields(
    {
        "service": Fields(
            {
                "name": values.label,
                "port": Fields({"name": values.port_name, "number": values.port}),
            },
            required=("name", "port"),
        ),
        "resource": Fields(
            {"apiGroup": values.string, "kind": values.string, "name": values.string},
            required=("kind", "name"),
        ),
    }
)
_PATH = Fields(
    {"path": values.string, "pathType": values.one_of(PATH_TYPES), "backend": _BACKEND},
    required=("pathType", "backend"),
)
INGRESS_SPEC = Fields(
    {
        "ingressClassName": values.subdomain,
        "defaultBackend": _BACKEND,
        "rules": Each(
            Fields({"host": host, "http": Fields({"paths": Each(_PATH, least=1)}, ("paths",))})
        ),
        "tls": Each(Fields({"hosts": Each(host), "secretName": values.subdomain})),
    }
)
INGRESS_CLASS_SPEC = Fields(
    {
        "controller": controller,
        "parameters": Fields(
            {
                "apiGroup": values.string,
                "kind": values.string,
                "name": values.string,
                "scope": values.one_of(("Cluster", "Namespace")),
                "namespace": values.label,
            },
            required=("kind", "name"),
        ),
    },
    required=("controller",),
)

SECRET: dict[str, Shape] = {
    "type": values.string,
    "data": Pairs(values.anything, base64),
    "stringData": Pairs(values.anything, values.string),
    "immutable": values.boolean,
}

_REFERENCE: dict[str, Shape] = {
    "group": values.string,
    "kind": values.string,
    "namespace": values.label,
    "name": values.subdomain,
}
_PARENT = Fields(
    {**_REFERENCE, "sectionName": values.string, "port": values.port}, required=("name",)
)
_ROUTE_BACKEND = Fields(
    {
        **_REFERENCE,
        "port": values.port,
        "weight": values.between(0, 1_000_000),
        "filters": ANY_LIST,
    },
    required=("name",),
)
_LISTENER = Fields(
    {
        "name": values.subdomain,
        "hostname": host,
        "port": values.port,
        "protocol": values.string,
        "tls": Fields(
            {
                "mode": values.one_of(("Terminate", "Passthrough")),
                "certificateRefs": Each(Fields(_REFERENCE, required=("name",))),
                "options": ANY_MAPPING,
                "frontendValidation": ANY_MAPPING,
            }
        ),
        "allowedRoutes": Fields(
            {
                "namespaces": Fields(
                    {"from": values.one_of(("All", "Same", "Selector")), "selector": ANY_MAPPING}
                ),
                "kinds": Each(Fields({"group": values.string, "kind": values.string}, ("kind",))),
            }
        ),
    },
    required=("name", "port", "protocol"),
)
GATEWAY_SPECS: dict[str, Shape] = {
    "GatewayClass": Fields(
        {"controllerName": controller, "description": values.string, "parametersRef": ANY_MAPPING},
        required=("controllerName",),
    ),
    "Gateway": Fields(
        {
            "gatewayClassName": values.subdomain,
            "listeners": Each(_LISTENER, least=1),
            "addresses": ANY_LIST,
            "infrastructure": ANY_MAPPING,
            "backendTLS": ANY_MAPPING,
        },
        required=("gatewayClassName", "listeners"),
    ),
    "HTTPRoute": Fields(
        {
            "parentRefs": Each(_PARENT),
            "hostnames": Each(host),
            "rules": Each(
                Fields(
                    {
                        "name": values.string,
                        "matches": Each(
                            Fields(
                                {
                                    "path": Fields(
                                        {
                                            "type": values.one_of(
                                                ("Exact", "PathPrefix", "RegularExpression")
                                            ),
                                            "value": values.string,
                                        }
                                    ),
                                    "headers": ANY_LIST,
                                    "queryParams": ANY_LIST,
                                    "method": values.string,
                                }
                            )
                        ),
                        "filters": ANY_LIST,
                        "backendRefs": Each(_ROUTE_BACKEND),
                        "timeouts": ANY_MAPPING,
                        "retry": ANY_MAPPING,
                        "sessionPersistence": ANY_MAPPING,
                    }
                )
            ),
        }
    ),
    "ReferenceGrant": Fields(
        {
            "from": Each(
                Fields(
                    {"group": values.string, "kind": values.string, "namespace": values.label},
                    required=("kind", "namespace"),
                ),
                least=1,
            ),
            "to": Each(
                Fields(
                    {"group": values.string, "kind": values.string, "name": values.string},
                    required=("kind",),
                ),
                least=1,
            ),
        },
        required=("from", "to"),
    ),
}
SPECS: dict[str, Shape] = {
    "Ingress": INGRESS_SPEC,
    "IngressClass": INGRESS_CLASS_SPEC,
    **GATEWAY_SPECS,
}
