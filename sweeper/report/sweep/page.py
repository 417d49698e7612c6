"""The frame of a report: its styles, and the script that draws the figures when they come into view."""

from __future__ import annotations

import plotly.offline

from sweeper.report.markup import Html, join, raw, tag
from sweeper.report.sweep.figures import Figure

__all__ = ["figure_element", "page"]

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src data:"
)
"""The browser loads nothing from elsewhere, whatever is in the page."""

STYLES = """
:root { color-scheme: light dark; --text: #1d2129; --soft: #5d6470; --page: #f6f7f9; --card: #ffffff;
  --line: #dfe3e8; --bar: #3b82c433; --sure: #2f9e6e; --unsure: #d97b29; --best: #3b82c4; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ec; --soft: #a2a9b4; --page: #15181d;
  --card: #1e2229; --line: #343a44; --bar: #3b82c455; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 8px; }
h3 { font-size: 1rem; margin: 20px 0 4px; overflow-wrap: anywhere; }
p { margin: 4px 0; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
nav { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 8px 0 14px; }
a { color: var(--best); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: 12px; }
@media (min-width: 1100px) { .cards { grid-template-columns: 1.4fr 1.3fr 1.15fr 1fr 1fr; } }
.card, .part { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px;
  min-width: 0; }
.card.best { border-left: 4px solid var(--best); }
.card.sure { border-left: 4px solid var(--sure); }
.card.unsure { border-left: 4px solid var(--unsure); }
.card.wide, .card.wide + .cards, .part { margin-top: 12px; }
.figure-of-merit { font-size: 1.9rem; font-weight: 650; line-height: 1.1; margin: 0 0 4px;
  white-space: nowrap; }
.figure-of-merit.small { font-size: 1.3rem; white-space: normal; }
.bars { list-style: none; margin: 0; padding: 0; }
.bars li { display: flex; justify-content: space-between; gap: 8px; padding: 3px 6px; margin-bottom: 3px;
  border-radius: 4px; overflow-wrap: anywhere;
  background: linear-gradient(to right, var(--bar) calc(100% * var(--share)), transparent 0); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; padding: 10px; border-radius: 6px;
  background: var(--page); }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.scrolls { overflow-x: auto; }
.tall { max-height: 540px; overflow-y: auto; }
.tall th { position: sticky; top: 0; background: var(--card); }
@media print { .tall { max-height: none; } }
table { border-collapse: collapse; font-size: .9rem; }
.scrolls > table { width: max-content; }
th, td { text-align: left; padding: 4px 8px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td:first-child, .short { white-space: nowrap; }
td { overflow-wrap: break-word; max-width: 44em; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.leads { font-weight: 650; color: var(--sure); white-space: nowrap; }
.open { color: var(--unsure); white-space: nowrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 12px; }
.grid > * { min-width: 0; }
figure { margin: 0; }
.picture { grid-column: 1 / -1; }
video, img { max-width: 100%; border-radius: 6px; background: #ffffff; }
.js-plotly-plot text { text-shadow: none !important; }
@media (max-width: 600px) { main { padding: 10px; } .card, .part { padding: 10px; }
  .picture img { max-width: none; } }
"""

SCRIPT = """
"use strict";
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Set();
  const template = () => {
    const style = getComputedStyle(document.documentElement);
    const value = name => style.getPropertyValue(name).trim();
    const [text, line, card] = ["--text", "--line", "--card"].map(value);
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, tickcolor: line,
      title: { standoff: 10 } };
    const clear = "rgba(0,0,0,0)";
    return { layout: { font: { color: text, family: "system-ui, sans-serif", size: 12 },
      paper_bgcolor: clear, plot_bgcolor: clear, xaxis: axis, yaxis: axis,
      scene: { xaxis: { ...axis, backgroundcolor: clear }, yaxis: { ...axis, backgroundcolor: clear },
               zaxis: { ...axis, backgroundcolor: clear } },
      annotationdefaults: { bgcolor: card, opacity: 0.9 },
      hoverlabel: { bgcolor: card, bordercolor: line, font: { color: text } }, legend: { bgcolor: clear } } };
  };
  const draw = element => {
    const figure = JSON.parse(document.getElementById(element.dataset.figure).textContent);
    figure.layout.template = template();
    Plotly.react(element, figure.data, figure.layout, { responsive: true, displaylogo: false,
      displayModeBar: false });
    drawn.add(element);
  };
  const seen = new IntersectionObserver(entries => entries.forEach(entry => {
    if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
  }), { rootMargin: "400px" });
  const all = document.querySelectorAll("[data-figure]");
  all.forEach(element => seen.observe(element));
  dark.addEventListener("change", () => drawn.forEach(draw));
  window.addEventListener("beforeprint", () => all.forEach(element => drawn.has(element) || draw(element)));
})();
"""


def figure_element(figure: Figure, number: int) -> Html:
    """A figure, and the place in which the script draws it.

    Args:
        figure: The figure.
        number: Distinguishes it from the others of the page.
    """
    name = f"figure-{number}"
    style = f"height: {figure.height}px; min-width: {figure.least_width}px"
    place = tag("div", data_figure=name, style=style, role="img", aria_label=figure.description)
    data = tag("script", raw(figure.json), type="application/json", id=name)
    return tag("div", place, data, class_="scrolls")


def page(title: str, *content: Html) -> str:
    """The whole file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", raw(STYLES)),
    )
    library = raw(plotly.offline.get_plotlyjs().replace("</script", "<\\/script"))
    scripts = join(tag("script", library), tag("script", raw(SCRIPT)))
    body = tag("body", tag("main", *content), scripts)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
