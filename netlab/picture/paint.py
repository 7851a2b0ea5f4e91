"""The colours of pictures, for light and for dark: both have a contrast of 4.5 or more for text."""

from __future__ import annotations

HUES = 8  # colours of Services; their numbers tell apart those that share one

_LIGHT = {
    "page": "#ffffff",
    "ink": "#14202e",
    "dim": "#4a5b6c",
    "card": "#f3f6fa",
    "edge": "#8fa3b8",
    "chip": "#ffffff",
    "bus": "#2f6aa8",
    "uplink": "#dbe9f8",
    "bridge": "#d6efdf",
    "bridge-edge": "#2f8552",
    "rules": "#e9e2fb",
    "rules-edge": "#7450c0",
    "tunnel": "#fdebd3",
    "tunnel-edge": "#b8660a",
    "warn": "#b3261e",
}
_DARK = {
    "page": "#0f151c",
    "ink": "#eaf0f7",
    "dim": "#a3b4c6",
    "card": "#18212c",
    "edge": "#5b6f85",
    "chip": "#212d3a",
    "bus": "#6ea8e6",
    "uplink": "#1d3a5a",
    "bridge": "#17402a",
    "bridge-edge": "#57b880",
    "rules": "#322659",
    "rules-edge": "#a48aec",
    "tunnel": "#4a3013",
    "tunnel-edge": "#eea54a",
    "warn": "#ff8a80",
}
_SERVICES = (
    *("#1f5fc4", "#a34700", "#1a7341", "#7b3fc4"),
    *("#b3263c", "#0b6a80", "#9c2f78", "#665a00"),
)


def hue(number: int) -> int:
    """Return which colour a Service has, by its number."""
    return number % HUES


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


VARIABLES = (
    f":root{{{_variables(_LIGHT)}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(_DARK)}}}}}\n"
)
SHAPES = """\
svg.netlab{background:var(--page);
  font-family:system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif}
.netlab text{fill:var(--ink)}
.netlab text.mono{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;
  white-space:pre}
.netlab text.strong{font-weight:600}
.netlab text.dim{fill:var(--dim)}
.netlab text.warn{fill:var(--warn)}
.netlab text.middle{text-anchor:middle}
.netlab text.end{text-anchor:end}
.netlab text.number{fill:#fff;font-weight:700}
.netlab text.buslabel{fill:var(--bus);font-weight:600}
.netlab text.lease{fill:var(--bridge-edge)}
.netlab rect{stroke-width:1.2}
.netlab .page{fill:var(--page)}
.netlab .card{fill:var(--card);stroke:var(--edge)}
.netlab .member{fill:var(--card);stroke:var(--bus)}
.netlab .uplink{fill:var(--uplink);stroke:var(--bus)}
.netlab .rules{fill:var(--rules);stroke:var(--rules-edge)}
.netlab .tunnel{fill:var(--tunnel);stroke:var(--tunnel-edge)}
.netlab .bridge{fill:var(--bridge);stroke:var(--bridge-edge)}
.netlab .chip{fill:var(--chip);stroke:var(--edge)}
.netlab .off{fill:none;stroke:var(--edge);stroke-dasharray:4 3}
.netlab .service{fill:var(--card);stroke-width:1.6}
.netlab .badge{stroke:none}
.netlab .cable{stroke:var(--edge);stroke-width:2}
.netlab .bus{stroke:var(--bus);stroke-width:5;stroke-linecap:round}
.netlab .overlay{stroke:var(--tunnel-edge);stroke-width:2;stroke-dasharray:7 5}
.netlab .quiet{opacity:.45}
"""
_HUES = "".join(
    f".netlab .service.h{number}{{stroke:{colour}}}.netlab .badge.h{number}{{fill:{colour}}}\n"
    for number, colour in ((hue(index + 1), colour) for index, colour in enumerate(_SERVICES))
)
STYLE = VARIABLES + SHAPES + _HUES
