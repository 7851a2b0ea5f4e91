"""Virtual hosts as text of nginx.

1. What hosts and paths there are is in this text, and nginx is told to read it again. Where the
   endpoints of a backend are is not: that changes far more often, a reload ends the workers there
   are and their clients' connections, and so `balancer.lua` is handed them while nginx runs.
2. A Prefix is two locations, `= /foo` and `/foo/`: without the first nginx itself would redirect
   there.
3. Every name is quoted; two locations that would be the same are one, or nginx would take nothing.

Source: nginx.org/en/docs/http/ngx_http_core_module.html, location, server_name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from netlab.vhosts.choice import route_of
from netlab.vhosts.model import HTTP, HTTPS, SCHEMES, Host, Match, Route, Routing, Settings

# What loads the modules needed; Debian's and Ubuntu's files, in this order.
MODULE_FILES = tuple(
    f"/usr/share/nginx/modules-available/mod-{name}.conf" for name in ("http-ndk", "http-lua")
)
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # directories of nginx
BODY_MAX = "1m"  # ingress-nginx's proxy-body-size
ENDPOINTS_MAX = "16m"  # of memory, for the endpoints of all backends


class Surroundings(msgspec.Struct, frozen=True):
    """What the place where nginx runs is like.

    *user*: of the workers; *certificates*: files by
    Secret, "" the default one.
    """

    directory: str
    certificates: Mapping[str, str]
    user: str = "root"
    workers: int = 2


def configuration(routing: Routing, settings: Settings, here: Surroundings) -> str:
    """Return the whole text of nginx.conf."""
    lines = [*_main(here), "http {", *_indented(_http(settings, here))]
    for host in _with_nameless(routing):
        for scheme in SCHEMES:
            lines += ["", *_indented(_server(host, scheme, settings, here))]
    return "\n".join([*lines, "}", ""])


def _with_nameless(routing: Routing) -> list[Host]:
    """Return the hosts, and one for requests to none of them."""
    nameless = [] if any(not host.name for host in routing.hosts) else [Host("", ())]
    return [*routing.hosts, *nameless]


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" if line else "" for line in lines)


def _main(here: Surroundings) -> Iterator[str]:
    yield "# Made from the Ingresses and HTTPRoutes of the cluster: changes here are lost."
    yield from (f"include {quoted(module)};" for module in MODULE_FILES)
    yield f"user {here.user} {'root' if here.user == 'root' else ''}".rstrip() + ";"
    yield f"worker_processes {here.workers};"
    yield "worker_shutdown_timeout 240s;"
    yield f"pid {here.directory}/nginx.pid;"
    yield "daemon off;"
    yield "error_log stderr warn;"
    yield "events { worker_connections 4096; }"


def _http(settings: Settings, here: Surroundings) -> Iterator[str]:
    yield f'lua_package_path "{here.directory}/lua/?.lua;;";'
    yield f"lua_shared_dict endpoints {ENDPOINTS_MAX};"
    yield 'init_by_lua_block { balancer = require "balancer" }'
    yield "init_worker_by_lua_block { balancer.begin() }"
    for name in TEMPORARY:
        yield f"{name}_temp_path {here.directory}/temp/{name};"
    yield (
        'log_format upstreaminfo \'$remote_addr [$time_iso8601] $host "$request" $status '
        "$body_bytes_sent $request_time [$backend] $upstream_addr $upstream_status';"
    )
    yield "access_log /dev/stdout upstreaminfo;"
    yield "server_tokens off;"
    yield "server_names_hash_bucket_size 512;"
    yield "server_names_hash_max_size 65536;"
    yield "keepalive_timeout 75s;"
    yield f"client_max_body_size {BODY_MAX};"
    yield "ssl_protocols TLSv1.2 TLSv1.3;"
    yield "ssl_session_cache shared:SSL:10m;"
    yield ""
    yield from _proxying()
    yield ""
    yield from _upstream()
    yield ""
    yield from _own_servers(settings)


def _proxying() -> Iterator[str]:
    """What endpoints are told about the client; nothing of it is believed from the client."""
    yield "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }"
    yield "map $http_host $best_host { default $http_host; '' $host; }"
    yield "map $http_x_request_id $request_number { default $http_x_request_id; '' $request_id; }"
    yield "proxy_http_version 1.1;"
    yield "proxy_buffering off;"
    yield "proxy_connect_timeout 2s;"
    yield "proxy_read_timeout 60s;"
    yield "proxy_send_timeout 60s;"
    yield "proxy_next_upstream error timeout;"
    for name, value in (
        ("X-Forwarded-For", "$remote_addr"),
        ("X-Forwarded-Proto", "$scheme"),
        ("Host", "$best_host"),
        ("X-Forwarded-Host", "$best_host"),
        ("X-Forwarded-Port", "$server_port"),
        ("X-Forwarded-Scheme", "$scheme"),
        ("X-Scheme", "$scheme"),
        ("X-Real-IP", "$remote_addr"),
        ("X-Request-ID", "$request_number"),
        ("X-Original-Forwarded-For", "$http_x_forwarded_for"),
        ("Upgrade", "$http_upgrade"),
        ("Connection", "$connection_upgrade"),
        ("Proxy", '""'),  # httpoxy.org
    ):
        yield f"proxy_set_header {name} {value};"


def _upstream() -> Iterator[str]:
    yield "upstream endpoints {"
    yield "    server 0.0.0.1;  # stands for whatever the balancer names"
    yield "    balancer_by_lua_block { balancer.balance() }"
    yield "    keepalive 320;"
    yield "    keepalive_timeout 20s;"
    yield "    keepalive_requests 10000;"
    yield "}"


def _own_servers(settings: Settings) -> Iterator[str]:
    yield "server {  # for the kubelet"
    yield f"    listen {settings.healthz_port};"
    yield "    access_log off;"
    yield '    set $backend "";'
    yield "    location = /healthz { content_by_lua_block { balancer.health() } }"
    yield "    location / { return 404; }"
    yield "}"
    yield "server {  # for the controller beside it"
    yield f"    listen 127.0.0.1:{settings.status_port};"
    yield "    access_log off;"
    yield '    set $backend "";'
    yield f"    client_max_body_size {ENDPOINTS_MAX};"
    yield f"    client_body_buffer_size {ENDPOINTS_MAX};"
    yield "    location = /configuration/backends { content_by_lua_block { balancer.configure() } }"
    yield "    location = /farewell { content_by_lua_block { balancer.farewell() } }"
    yield "    location = /nginx_status { stub_status; }"
    yield "    location / { return 404; }"
    yield "}"


def _server(host: Host, scheme: str, settings: Settings, here: Surroundings) -> Iterator[str]:
    port = settings.https_port if scheme == HTTPS else settings.http_port
    words = ["listen", str(port)]
    words += [] if host.name else ["default_server"]
    words += ["ssl", "http2"] if scheme == HTTPS else []
    yield f"server {{  # {scheme}://{host.name or 'any other host'}"
    yield f"    {' '.join(words)};"
    yield f"    server_name {server_name(host)};"
    if scheme == HTTPS:
        file = here.certificates.get(host.secret) or here.certificates[""]
        yield f"    ssl_certificate {quoted(file)};"
        yield f"    ssl_certificate_key {quoted(file)};"
    yield '    set $backend "";'
    yield "    access_by_lua_block { balancer.admit() }"
    found = locations(host, scheme)
    for location, route in found.items():
        yield from _indented(_location(location, route, scheme, settings))
    if "/" not in found:
        yield "    location / { return 404; }"
    if any(found.values()):
        yield "    location @part {  # for the last request of a connection: see balancer.lua"
        yield "        keepalive_timeout 0;"
        yield "        access_by_lua_block { balancer.choose() }"
        yield "        proxy_pass http://endpoints;"
        yield "    }"
    yield "}"


def server_name(host: Host) -> str:
    """Return nginx's pattern for *host*: its own `*.` would stand for any number of labels."""
    if not host.name.startswith("*."):
        return quoted(host.name or "_")
    labels = ".+" if host.deep else "[^.]+"
    return quoted(f"~^{labels}{re.escape(host.name[1:])}$")


def locations(host: Host, scheme: str) -> dict[str, Route | None]:
    """Return nginx's locations of *host*; None: nobody serves it."""
    found: dict[str, Route | None] = {}
    routes = [route for route in host.routes if scheme in route.schemes]
    for route in routes:
        if route.match is Match.EXACT:
            found.setdefault(f"= {quoted(route.path)}", route)
    for route in routes:
        if route.match is Match.PREFIX:
            if route.path:
                found.setdefault(f"= {quoted(route.path)}", route)
            found.setdefault(_prefix(f"{route.path}/"), route)
        elif route.match is Match.PLAIN:
            found.setdefault(_prefix(route.path or "/"), route)
    for route in routes:
        # What nginx would redirect to the path with a slash.
        bare = route.path.rstrip("/")
        if bare and bare != route.path:
            found.setdefault(f"= {quoted(bare)}", route_of(host, scheme, bare))
    return found


def _prefix(path: str) -> str:
    return "/" if path == "/" else quoted(path)


def _location(location: str, route: Route | None, scheme: str, settings: Settings) -> Iterator[str]:
    if route is None:
        yield f"location {location} {{ return 404; }}"
        return
    yield f"location {location} {{  # {route.source}"
    if route.to_https and scheme == HTTP:
        port = "" if settings.https_port == 443 else f":{settings.https_port}"
        yield f"    return 308 https://$host{port}$request_uri;"
    else:
        yield f"    set $backend {quoted(_targets(route))};"
        if route.rewrite:
            yield f"    rewrite ^ {quoted(route.rewrite)} break;"
        yield "    proxy_pass http://endpoints;"
    yield "}"


def _targets(route: Route) -> str:
    """Return where *route* goes as `balancer.lua` reads it: `web 9;web-next 1`, `-`: to nobody."""
    names = [(one.port.name if one.port else "-", one.weight) for one in route.targets]
    if len(names) == 1:
        return names[0][0]
    return ";".join(f"{name} {weight}" for name, weight in names)


def quoted(text: str) -> str:
    """Return *text* as one word of nginx."""
    inner = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner}"'


def endpoints_text(endpoints: Mapping[str, tuple[tuple[str, int], ...]]) -> str:
    """Return the endpoints of all backends as `balancer.lua` reads them: a line for each."""
    return "".join(
        f"{name} {' '.join(f'{address}:{port}' for address, port in each)}\n"
        for name, each in sorted(endpoints.items())
    )
