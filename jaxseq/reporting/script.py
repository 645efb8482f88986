"""What makes the curves tell their values under a pointer; without it they are still drawn."""

from jaxseq.reporting.markup import Markup

# Text of runs reaches the page as text nodes alone (textContent), never as HTML.
SCRIPT = Markup("""
"use strict";
for (const plot of document.querySelectorAll(".plot")) {
  const lines = JSON.parse(plot.dataset.lines);
  const first = Number(plot.dataset.first), last = Number(plot.dataset.last);
  const percent = plot.dataset.percent !== undefined;
  const steps = [...new Set(lines.flatMap(line => line.points.map(point => point[0])))];
  steps.sort((a, b) => a - b);
  const cross = document.createElement("div"), tip = document.createElement("div");
  cross.className = "cross";
  tip.className = "tip";
  let place = steps.length - 1;

  const nearest = (points, step) => {
    let low = 0, high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle + 1; else high = middle;
    }
    const before = points[low - 1];
    return before && step - before[0] < points[low][0] - step ? before : points[low];
  };
  const words = value => percent
    ? (100 * value).toPrecision(3) + " %"
    : Math.abs(value) >= 10000 ? Math.round(value).toLocaleString("en") : value.toPrecision(4);
  const hidden = run => {
    const box = document.querySelector(`[data-shows="${run}"]`);
    return box !== null && !box.checked;
  };
  const show = step => {
    const share = (step - first) / (last - first);
    cross.style.left = `${100 * share}%`;
    const rows = [document.createElement("div")];
    rows[0].textContent = `step ${step.toLocaleString("en")}`;
    for (const line of lines) {
      if (!line.points.length || hidden(line.run)) continue;
      const point = nearest(line.points, step);
      if (Math.abs(point[0] - step) > (last - first) / 20) continue;
      const row = document.createElement("div"), spot = document.createElement("i");
      const value = document.createElement("b");
      row.className = `run-${line.run}`;
      spot.className = "spot";
      value.textContent = words(point[1]);
      row.append(spot, line.name, value);
      rows.push(row);
    }
    tip.replaceChildren(...rows);
    plot.append(cross, tip);
    const x = share * plot.clientWidth, width = tip.offsetWidth;
    const beside = share < 0.5 ? x + 10 : x - 10 - width;
    tip.style.left = `${Math.max(Math.min(beside, plot.clientWidth - width), -40)}px`;
  };
  const hide = () => { cross.remove(); tip.remove(); };
  const at = event => {
    const box = plot.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    const step = first + Math.min(Math.max(share, 0), 1) * (last - first);
    const found = nearest(steps.map(each => [each]), step)[0];
    place = steps.indexOf(found);
    show(found);
  };
  if (!steps.length) continue;
  plot.addEventListener("pointermove", at);
  plot.addEventListener("pointerdown", at);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", event => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    place = Math.min(Math.max(place + move, 0), steps.length - 1);
    show(steps[place]);
  });
}
""")
