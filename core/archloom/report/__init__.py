"""A run folder as one HTML file that a person looks at: `archloom report RUN`.

It reads the folder and nothing else, a live or unfinished run as well as a finished one. The file needs
no network: plotly.js is inside. Everything that the folder says is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..run import write_atomically
from .curves import fit_section
from .finals import verdict_section
from .markup import escaped, header
from .overview import (
    family_section,
    found_section,
    provenance_section,
    sentences,
    status,
    summary,
    type_of,
    who,
)
from .ranking import ranking_sections
from .story import Story
from .trials import table_section, trials_section


def write_report(folder: str | Path) -> Path:
    """Write `report.html` into a run folder, atomically, and return its path.

    A RunError where the folder is no run, or where a file of it is damaged.
    """
    story = Story.read(Path(folder))
    path = story.folder / "report.html"
    write_atomically(path, _page(story).encode())
    return path


_STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
body { margin: 0; background: #f4f6f8; color: #1f2933; font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Liberation Sans", sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 12px } h2 { font-size: 1.2rem; margin: 0 0 12px }
h3 { font-size: .95rem; margin: 18px 0 6px; font-weight: 600 }
section, header { background: #fff; border: 1px solid #dde3e9; border-radius: 8px; padding: 20px;
  margin: 0 0 16px }
.summary { max-width: 78ch; margin: 0 }
.unfinished { background: #fff4d6; border-left: 4px solid #E69F00; padding: 8px 12px; margin: 0 0 14px }
.verdict { margin: 16px 0 0; padding: 12px 16px 12px 34px; background: #eef2f6; border-radius: 6px }
.note { color: #52606d; font-size: .85rem; max-width: 100ch; margin: 8px 0 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px }
.plots.three, .plots.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)) }
figure { margin: 0; min-width: 0 } figcaption { font-weight: 600; font-size: .9rem; overflow-wrap: anywhere }
.plot { height: 380px } .three .plot { height: 330px } .small .plot { height: 250px }
.scroll { overflow-x: auto; margin: 14px 0 }
table { border-collapse: collapse; font-size: .85rem; width: 100% }
table.narrow { width: auto; min-width: 280px } table.facts thead { display: none }
table.facts td:first-child { white-space: nowrap; color: #52606d; width: 1% }
table.facts td { overflow-wrap: anywhere }
th, td { text-align: left; vertical-align: top; padding: 6px 12px 6px 0; border-bottom: 1px solid #e6ebf0 }
th { color: #52606d; font-weight: 600; vertical-align: bottom } td { font-variant-numeric: tabular-nums }
.error { color: #52606d; font-size: .8rem; max-width: 42ch; overflow-wrap: anywhere }
.strip { list-style: none; display: flex; flex-wrap: wrap; gap: 4px; padding: 0; margin: 0 }
.strip li { padding: 4px 10px; border-radius: 4px; display: flex; flex-direction: column; min-width: 74px }
.strip span { font-size: .7rem } .strip b { font-size: .85rem; overflow-wrap: anywhere }
.bar { display: flex; margin: 3px 0 2px }
.bar i { flex: 0 1 12px; min-width: 3px; height: 10px; margin-right: 1px }
td code { font-size: .68rem; line-height: 1.3; color: #52606d; display: block;
  min-width: 24ch; max-width: 62ch }
pre { overflow-x: auto; font-size: .8rem; background: #f4f6f8; padding: 12px; border-radius: 6px }
summary { cursor: pointer; font-weight: 600; font-size: .95rem }
@media (max-width: 600px) { main { padding: 10px 8px 40px } section, header { padding: 14px 12px }
  .plot { height: 330px } h1 { font-size: 1.35rem }
  table:not(.narrow):not(.facts) { min-width: 760px } }
"""

# Nothing can be loaded, whatever is on the page.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_DRAW = """
const font = {family: getComputedStyle(document.body).fontFamily, size: 12, color: '#1f2933'};
const grid = {gridcolor: '#e6ebf0', linecolor: '#9aa5b1', zeroline: false, automargin: true};
for (const place of document.querySelectorAll('.plot')) {
  const figure = JSON.parse(place.nextElementSibling.textContent), layout = figure.layout;
  const base = {font, margin: {l: 52, r: 14, t: 8, b: 42}, hovermode: 'closest', paper_bgcolor: '#fff',
    plot_bgcolor: '#fff', legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom'}};
  for (const axis of ['xaxis', 'yaxis']) layout[axis] = {...grid, ...layout[axis]};
  Plotly.newPlot(place, figure.data, {...base, ...layout}, {responsive: true, displayModeBar: false});
}
"""


def write_ranking(path: str | Path, ranking: Mapping[str, Any]) -> Path:
    """Write a comparison's page, atomically: `ranking` is what rank.json holds."""
    path = Path(path)
    title = f"Who ranks networks well? {ranking['title']}"
    write_atomically(path, document(title, ranking_sections(ranking)).encode())
    return path


def document(title: str, body: str) -> str:
    """A page of one's own in the report's style: `body` is HTML, sections and figures made by `markup`."""
    from plotly.offline import get_plotlyjs  # not at the top: a search would pay for it at its start

    scripts = ""
    if 'class="plot"' in body:
        scripts = f"<script>{get_plotlyjs()}</script>\n<script>{_DRAW}</script>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}: archloom</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{body}</main>\n{scripts}</body></html>\n"
    )


def headed(title: str, opening: str, *sections: str) -> str:
    """A `document` with a headline (escaped here), what stands below it, and sections."""
    return document(title, header(title, opening) + "".join(sections))


def _page(story: Story) -> str:
    config = story.config
    task = f", task {type_of(config['task'])}" if config["task"] is not None else ""
    title = f"{who(config)}: space {type_of(config['space'])}{task}"
    return headed(
        title,
        f"{status(story)}{summary(story)}{sentences(story)}",
        verdict_section(story),
        trials_section(story),
        fit_section(story),
        found_section(story),
        family_section(story),
        table_section(story),
        provenance_section(story),
    )
