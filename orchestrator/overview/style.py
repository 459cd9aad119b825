"""How the overview page looks: on a telephone and on a desk, light and dark."""

STYLE = """
:root { --ground:#fff; --card:#f6f7f9; --text:#1f2328; --soft:#5f6670; --line:#d9dde3; --front:#1f5fbf; --rest:#848d97;
  --knee:#c43b52; --c1:#1f5fbf; --c2:#b35c00; --c3:#2f7d4f; --c4:#8a3ea8; --c5:#5f6670; --kept:31,95,191; --most:1; }
@media (prefers-color-scheme: dark) { :root { --ground:#16181d; --card:#1f232a; --text:#e6e8eb; --soft:#a5acb5;
  --line:#3a404a; --front:#79aef5; --rest:#747d88; --knee:#ff8496; --c1:#79aef5; --c2:#f0a860; --c3:#7fcf9c;
  --c4:#d59bea; --c5:#a5acb5; --kept:121,174,245; --most:.8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 16px; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 26px; line-height: 1.2; margin: 8px 0 4px; }
h2 { font-size: 19px; margin: 36px 0 8px; }
h3, .card h2 { font-size: 15px; margin: 0 0 4px; }
p { margin: 4px 0 12px; max-width: 78ch; }
.soft { color: var(--soft); }
a { color: var(--front); }
code { font: 13px/1.5 ui-monospace, monospace; background: var(--card); border: 1px solid var(--line);
  border-radius: 5px; padding: 1px 5px; }
code span { white-space: nowrap; }
.cards { display: grid; gap: 12px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px;
  min-width: 0; }
.card.knee { border-color: var(--knee); border-width: 2px; }
.card b { font-size: 22px; display: block; line-height: 1.3; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; }
.facts { width: fit-content; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; color: var(--soft); font-size: 13px; vertical-align: bottom; }
th:first-child, td:first-child, td.words, th.words { text-align: left; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--ground); }
tr.knee td { font-weight: 600; }
tr:target td { background: var(--card); }
.facts td { white-space: normal; }
td.reason { white-space: normal; min-width: 260px; }
svg.chart { display: block; width: 100%; height: auto; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .tick, svg .axis, svg .note { fill: var(--soft); }
svg .label { font-weight: 600; }
svg .label, svg .note { paint-order: stroke; stroke: var(--ground); stroke-width: 3px; }
svg .teacher { stroke: var(--soft); stroke-dasharray: 6 4; stroke-width: 1.5; }
svg circle.rest { fill: var(--rest); }
svg circle.front, svg circle.knee { fill: var(--front); }
svg .ring { fill: none; stroke: var(--knee); stroke-width: 3; }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg circle.alone { fill: none; stroke-width: 3; }
svg polyline.front { stroke: var(--front); }
.c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); } .c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); }
.c5 { stroke: var(--c5); }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 14px; font-size: 13px; color: var(--soft); }
.key svg { width: 22px; height: 12px; }
.many { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
.bars { display: grid; grid-template-columns: minmax(90px, max-content) 1fr max-content; gap: 6px 10px;
  align-items: center; }
.bars i { display: block; height: 14px; border-radius: 3px; background: var(--front); min-width: 1px; }
.bars span { font-size: 13px; } .bars span:nth-child(3n) { text-align: right; white-space: nowrap; }
td.width { background: rgba(var(--kept), calc(var(--most) * var(--share))); font-size: 13px; }
td.width, th.width { text-align: center; }
svg.middle, svg.narrow { display: none; }
@media (max-width: 1100px) { svg.wide { display: none; } svg.middle { display: block; } }
@media (max-width: 600px) { svg.middle { display: none; } svg.narrow { display: block; } body { padding: 12px; } }
@media print { .scroll { overflow: visible; } }
"""
