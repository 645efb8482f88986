"""How a report looks: on a phone, on a desk, on paper, in light and in dark."""

from jaxseq.reporting.markup import Markup

# Colours of runs that differ for the colour-blind too and stand out from the page by 3:1 or more.
LIGHT = ("#0b62a4", "#c2410c", "#0f766e", "#9d3f8f", "#8a6100", "#4f46b8", "#b0224f", "#57606a")
DARK = ("#63b0f0", "#ff8a5c", "#4cc2a8", "#d98ccf", "#d6a93c", "#a49bf5", "#f0819f", "#a7b0ba")

SHOWN = 40
"""Runs that have a colour each, by turns."""


def _colours(colours: tuple[str, ...]) -> str:
    return "".join(f"--c{place}:{colour};" for place, colour in enumerate(colours))


_RUNS = "".join(
    f".run-{place}{{--run:var(--c{place % len(LIGHT)})}}"
    f'body:has([data-shows="{place}"]:not(:checked)) .drawing [data-run="{place}"]'
    "{display:none}"
    for place in range(SHOWN)
)

_RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth;scroll-padding-top:1rem}
body{margin:0;background:var(--page);color:var(--ink);
font:400 1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
.page{max-width:76rem;margin:0 auto;padding:1.5rem 1rem 4rem}
header{margin-bottom:2.5rem}
h1,h2{font-family:Charter,"Iowan Old Style","Source Serif 4",Georgia,"DejaVu Serif",serif;
font-weight:600;line-height:1.2;text-wrap:balance;overflow-wrap:anywhere}
h1{font-size:clamp(1.7rem,1.2rem + 2.2vw,2.6rem);margin:.2rem 0 .6rem;letter-spacing:-.01em}
h2{font-size:1.45rem;margin:0 0 1rem}
h3{font-size:1rem;font-weight:600;margin:1.75rem 0 .6rem}
section{padding:2rem 0;border-top:1px solid var(--rule)}
.over{margin:0;font-size:.85rem;color:var(--muted)}
.headline{font-size:1.1rem;margin:0;max-width:44rem;text-wrap:pretty}
.note,small,footer{color:var(--muted);font-size:.85rem}
.note{max-width:46rem;margin:.5rem 0 1rem}
small{font-weight:400}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
font-size:.85em;overflow-wrap:anywhere}
pre{margin:.4rem 0 0;padding:.7rem .9rem;background:var(--well);border-radius:6px;
white-space:pre-wrap}
.gap,.alarm{margin:.75rem 0;padding:.6rem .9rem;border-radius:6px;font-size:.9rem}
.gap{background:var(--well);color:var(--muted)}.gap code{color:var(--ink)}
.alarm{background:var(--alarm)}
nav{display:flex;gap:.25rem 1.1rem;flex-wrap:wrap;margin-bottom:1.5rem;font-size:.9rem}
nav a{color:var(--muted);text-decoration:none;padding:.2rem 0}
nav a:hover{color:var(--ink);text-decoration:underline;text-underline-offset:.25em}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
.name{overflow-wrap:anywhere}th .name{display:inline-block;width:max-content;max-width:14rem}
.spot{display:inline-block;width:.65em;height:.65em;border-radius:50%;background:var(--run);
margin-right:.45em}
.wide{overflow-x:auto}.option span{white-space:nowrap}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.5rem 1.25rem .5rem 0;
border-bottom:1px solid var(--rule)}
th{font-weight:500}thead th{vertical-align:bottom}
thead th small,td small,.value small{display:block}
tbody th{color:var(--muted);min-width:7.5rem}.options tbody th{min-width:10.5rem}
.results tbody th:first-child,.results thead th:first-child{position:sticky;left:0;min-width:0;
background:var(--page)}
.results tbody th{color:var(--ink)}
tbody tr:last-child>*{border-bottom:0}
.facts td,.options td{overflow-wrap:anywhere;min-width:8.5rem;max-width:22rem}
.results td{min-width:8.5rem}.results .value{white-space:nowrap}
.best .value{font-weight:700}.best{font-weight:700}.best small{font-weight:400}
.whisker{display:block;width:100%;height:.75rem;margin-top:.3rem;overflow:visible}
.whisker path,.drawing path{fill:none;stroke:var(--run)}
.span{stroke-width:1.5;opacity:.7}
.dots{stroke-width:6;stroke-linecap:round}
.extras{padding-left:1.1rem}
details{margin:.75rem 0}summary{cursor:pointer}
details>summary{padding:.15rem 0}
.legend{display:flex;flex-wrap:wrap;gap:.4rem 1.25rem;position:sticky;top:0;z-index:2;
padding:.6rem 0;background:var(--page);font-size:.9rem}
.legend label{display:flex;align-items:center;gap:.4rem;cursor:pointer}
.legend input{margin:0;accent-color:var(--muted)}
.charts{display:grid;gap:2rem 2.25rem;grid-template-columns:minmax(0,1fr)}
.chart{margin:0;min-width:0}
.chart figcaption{font-weight:600;font-size:.9rem;margin-bottom:.6rem}
.chart figcaption small{margin-left:.5rem}
.plot{position:relative;height:13rem;margin:0 .6rem 1.6rem 3.4rem;touch-action:pan-y}
.drawing{position:absolute;inset:0}
.drawing svg{width:100%;height:100%;display:block;overflow:visible}
.drawing .rule{stroke:var(--rule);stroke-width:1}
.drawing .raw{stroke-width:1;opacity:.28}
.drawing .mean{stroke-width:2;stroke-linejoin:round}
.drawing .measured{stroke-width:1.25;opacity:.8}
.drawing .mean~.measured{stroke-dasharray:5 4}
.height,.width{position:absolute;font-size:.75rem;line-height:1;color:var(--muted);
font-variant-numeric:tabular-nums;white-space:nowrap}
.height{right:100%;padding-right:.5rem;transform:translateY(-50%)}
.width{top:100%;padding-top:.5rem;transform:translateX(-50%)}
.cross{position:absolute;top:0;bottom:0;width:1px;background:var(--muted);pointer-events:none}
.tip{position:absolute;top:.25rem;z-index:1;padding:.45rem .6rem;border-radius:6px;
background:var(--tip);color:var(--ink);font-size:.8rem;line-height:1.45;pointer-events:none;
width:max-content;max-width:min(24rem,85vw);overflow-wrap:anywhere;
box-shadow:0 1px 2px #0003,0 4px 16px #0002;font-variant-numeric:tabular-nums}
.tip b{float:right;margin-left:1rem;font-weight:600}
.example{padding:1rem 0;border-bottom:1px solid var(--rule)}
.example:last-of-type{border-bottom:0}
dl{margin:0;display:grid;grid-template-columns:minmax(0,1fr);gap:.1rem .9rem}
dt{color:var(--muted);font-size:.85rem;overflow-wrap:anywhere}
dd{margin:0 0 .5rem;overflow-wrap:anywhere;min-width:0}
dd .text{white-space:pre-wrap}dd details{margin:0}
dd .right,dd .facts{margin-left:.75rem}.right{white-space:nowrap}
.right{color:var(--fine)}
del,ins{border-radius:3px;padding:.05em .15em}
del{background:var(--wrong);color:var(--wrong-ink)}
ins{background:var(--missing);color:var(--missing-ink);text-underline-offset:.2em}
.media{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));
align-items:start}
.media.large{grid-template-columns:minmax(0,1fr)}
.media figure{margin:0;min-width:0}
.media figcaption{font-size:.85rem;color:var(--muted);margin-top:.3rem}
.media img{max-width:100%;height:auto;display:block;background:#fff;border-radius:6px;
padding:.35rem;border:1px solid var(--rule)}
.media audio{width:100%;display:block}
.heat{font-size:.8rem}
.heat th,.heat td{padding:.3rem .45rem;text-align:right;border:0;white-space:nowrap;min-width:0}
.heat th[scope=row]{position:sticky;left:0;background:var(--page);color:var(--ink)}
.heat td{background:color-mix(in oklab,var(--c1) calc(var(--depth,0)*75%),transparent)}
.heat td.hit{background:color-mix(in oklab,var(--c0) calc(var(--depth,0)*60%),transparent)}
.heat tbody th{min-width:0}.heat .edge,.heat .edge th{color:var(--muted);font-weight:400}
.heat thead th:last-child{color:var(--muted);font-weight:400}
.pairs{padding-left:1.4rem;margin:.5rem 0 1.25rem}
.start{margin-bottom:1rem}.start p{margin:0;font-size:.9rem}
footer{padding-top:1.5rem;border-top:1px solid var(--rule)}
@media (min-width:44rem){
.page{padding:2.5rem 2rem 5rem}
.charts{grid-template-columns:repeat(2,minmax(0,1fr))}
.charts .chart:first-child{grid-column:1/-1}.charts .chart:first-child .plot{height:20rem}
dl{grid-template-columns:8.5rem minmax(0,1fr)}
}
@media (min-width:68rem){
.page{display:grid;grid-template-columns:10.5rem minmax(0,1fr);gap:3rem}
nav{position:sticky;top:2.5rem;align-self:start;flex-direction:column}
}
@media print{
.page{display:block;max-width:none;padding:0}nav,.legend{display:none}
section,.chart,.example{break-inside:avoid-page}
}
"""

STYLE = Markup(
    ":root{color-scheme:light dark;--page:#fcfcfb;--ink:#171a1e;--muted:#59616b;--rule:#e1e4e7;"
    "--well:#f1f3f4;--tip:#fff;--alarm:#fdecd8;--wrong:#fde3da;--wrong-ink:#9c2c06;"
    f"--missing:#dcebf8;--missing-ink:#0a4f86;--fine:#0f6a50;{_colours(LIGHT)}}}"
    "@media (prefers-color-scheme:dark){:root{--page:#131619;--ink:#e6e8ea;--muted:#9ba4ae;"
    "--rule:#2b3136;--well:#1c2125;--tip:#262c31;--alarm:#4a2f0d;--wrong:#4d2115;"
    "--wrong-ink:#ffb79c;--missing:#15364f;--missing-ink:#a6d5fb;--fine:#6fd3b1;"
    f"{_colours(DARK)}}}}}" + _RUNS + _RULES
)
