"""How pages look: light or dark as the browser wants, legible from 400 px on."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --paper: #f6f8fa; --card: #ffffff; --ink: #1c2733; --soft: #5d6b7a;
  --line: #dfe5ec; --shade: #edf1f6; --good: #2c8a57; --bad: #c0392b; --warn: #9a6700; --mark: #3a7ca5;
  --series-0: #3a7ca5; --series-1: #d9722e; --series-2: #3f8f5b; --series-3: #8a6fb0; --series-4: #c0504d;
  --series-5: #1f8f86; --series-6: #a37f00; --series-7: #c72d78; }
@media (prefers-color-scheme: dark) { :root { --paper: #10161d; --card: #18212b; --ink: #e4eaf1;
  --soft: #9aa8b7; --line: #2c3947; --shade: #212c38; --good: #58c98c; --bad: #ff7b6e; --warn: #e3b341;
  --mark: #6fb3df; --series-0: #6fb3df; --series-1: #f0a06a; --series-2: #74c794; --series-3: #b9a1de;
  --series-4: #ef8e8a; --series-5: #5fd0c6; --series-6: #dcbb4c; --series-7: #f07fb6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 0 0 12px; font-size: 1.2rem; }
h3 { margin: 24px 0 8px; font-size: 1rem; }
.soft { color: var(--soft); font-size: 0.9rem; font-weight: 400; margin: 6px 0; }
.path { overflow-wrap: anywhere; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; list-style: none; margin: 12px 0 0; padding: 0; }
.chips li { background: var(--shade); border: 1px solid var(--line); border-radius: 6px; padding: 2px 8px;
  font-size: 0.85rem; }
.chips li.changed { border-color: var(--warn); color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; }
.tile h2 { font-size: 0.9rem; color: var(--soft); margin: 0; font-weight: 600; }
.tile p { margin: 0; color: var(--soft); font-size: 0.88rem; }
.tile .value { color: var(--ink); font-size: 1.9rem; font-weight: 650; line-height: 1.3; }
.card { margin: 16px 0; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 16px; }
.two > div { min-width: 0; }
.wide { overflow-x: auto; }
.wide img { width: 100%; min-width: 900px; border-radius: 6px; display: block; background: #fff; }
.film { max-width: 480px; }
video { width: 100%; max-height: 480px; border-radius: 6px; background: #fff; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: 4px 16px 4px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child td { border-bottom: 0; }
td:first-child { font-weight: 600; }
.banner { border-left: 4px solid var(--good); background: var(--shade); padding: 8px 12px; margin: 0 0 8px;
  border-radius: 0 6px 6px 0; }
.banner.warning { border-color: var(--warn); }
.banner.error { border-color: var(--bad); }
.notes { color: var(--warn); padding-left: 20px; }
.good { color: var(--good); } .bad { color: var(--bad); }
pre { background: var(--shade); padding: 10px 12px; border-radius: 6px; overflow-x: auto;
  font-size: 0.88rem; }
svg { width: 100%; max-width: 520px; height: auto; display: block; margin: 8px 0; }
svg text { fill: var(--soft); font: 12px system-ui, "DejaVu Sans", sans-serif; }
@media (max-width: 600px) { svg text { font-size: 15px; } }
svg .axis { stroke: var(--soft); } svg .grid { stroke: var(--line); } svg .shade { fill: var(--shade); }
"""
