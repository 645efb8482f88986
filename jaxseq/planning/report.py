"""A plan in words and figures, for a person and for a program."""

import math
from typing import Any

from jaxseq.parallel.chips import GIB
from jaxseq.planning.mends import Mend
from jaxseq.planning.plan import Plan, StepPlan
from jaxseq.planning.search import Search, mesh_options

BINARY = {2**30: "GiB", 2**20: "MiB", 2**10: "KiB", 1: "B"}
DECIMAL = {10**12: "T", 10**9: "G", 10**6: "M", 10**3: "k", 1: ""}

SHOWN = 8
"""How many kinds of exchanges, and how many meshes, are listed."""


def plan_lines(plan: Plan) -> list[str]:
    """All that a plan says, with the formulas and peaks that its figures come from."""
    chip = plan.chip
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items() if size > 1) or "1"
    lines = [
        f"{plan.devices} x {chip.name}, mesh {mesh}; {plan.parameters:,} parameters, "
        f"{plan.unsharded:.1%} of them whole on every device",
        "",
        *_table([["", *(step.name for step in plan.steps)], *_rows(plan)]),
        "",
        *(f"not planned: {reason}" for reason in plan.left_out),
    ]
    for step in plan.steps:
        lines += _verdict(step) + _exchanges(step)
    unknown = sorted({name for step in plan.steps if step.costs for name in step.costs.unknown})
    if unknown:
        lines.append(f"not counted, because the program does not say: {', '.join(unknown)}")
    lines += [
        "",
        f"peaks of a chip: {chip.bf16_flops / 1e12:.1f} TFLOP/s (bfloat16), memory "
        f"{chip.memory_bytes / GIB:.2f} GiB at {chip.memory_bandwidth / 1e9:,.0f} GB/s, a link "
        f"{chip.link_bandwidth / 1e9:,.1f} GB/s one way, the network between slices "
        f"{chip.network_bandwidth / 1e9:,.1f} GB/s",
        "time, at best: of every kernel the longer of operations / peak and bytes / bandwidth, and "
        "of exchanges what no kernel hides",
        f"MFU = model FLOPs / (time x {plan.devices} chips x {chip.bf16_flops / 1e12:.1f} TFLOP/s)",
    ]
    return lines


def search_lines(search: Search, limit: int) -> list[str]:
    """The ranking of a search, and how it came about; `limit`: bytes that a chip has."""
    lines = [
        f"{search.tried} meshes, {len(search.ranked)} of which fit the experiment and, by "
        f"arithmetic, the memory; the best {len(search.compiled)} of these were compiled:",
        "",
    ]
    rows = [["", "memory, GiB", "step, ms", "MFU", "bound by"]]
    for mesh, plan in search.compiled:
        step = plan.train
        words = [f"{step.memory.total / GIB:,.2f}", _milliseconds(step), "", "does not fit"]
        if step.roofline is not None:
            words[2] = f"{plan.mfu(step):.1%}"
            words[3] = step.roofline.bound if plan.fits else "does not fit"
        rows.append([mesh_options(mesh), *words])
    lines += [*_table(rows), "", "by arithmetic alone, fastest first:", ""]
    rows = [["", "memory, GiB", "step, ms"]]
    for candidate in search.ranked[:SHOWN]:
        size = f"{candidate.bytes / GIB:,.2f}" + ("" if candidate.bytes <= limit else " (too much)")
        rows.append([mesh_options(candidate.mesh), size, f"{1e3 * candidate.seconds:,.0f}"])
    return lines + _table(rows)


def mend_line(mend: Mend) -> str:
    """Whether a change of options would make an experiment fit."""
    memory = mend.plan.train.memory
    verdict = "fits" if mend.plan.fits else "does not fit either"
    return f"{mend.options}: {memory.total / GIB:,.2f} GiB a chip, {verdict}"


def plan_tree(plan: Plan) -> dict[str, Any]:
    """A plan for `json.dumps`."""
    return {
        "mesh": plan.mesh,
        "devices": plan.devices,
        "chip": plan.chip.name,
        "parameters": plan.parameters,
        "unsharded": plan.unsharded,
        "fits": plan.fits,
        "steps": {step.name: _step_tree(plan, step) for step in plan.steps},
        "left_out": list(plan.left_out),
    }


def _step_tree(plan: Plan, step: StepPlan) -> dict[str, Any]:
    memory = step.memory
    tree: dict[str, Any] = {
        "tokens": step.tokens,
        "model_flops": step.model_flops,
        "compile_seconds": step.compile_seconds,
        "memory_bytes": {
            "parameters": memory.parameters,
            "optimizer": memory.optimizer,
            "inputs": memory.inputs,
            "outputs": memory.outputs,
            "activations": memory.activations,
            "total": memory.total,
            "limit": memory.limit,
        },
        "fits": memory.fits and step.costs is not None,
    }
    if step.costs is None or step.roofline is None:
        return tree
    return tree | {
        "flops": step.costs.flops,
        "bytes": step.costs.bytes,
        "seconds": step.seconds,
        "bound": step.roofline.bound,
        "tokens_per_second": step.tokens / step.seconds,
        "mfu": plan.mfu(step),
        "exchanges": [
            {
                "kind": exchange.kind,
                "axes": list(exchange.axes),
                "count": exchange.count,
                "bytes": exchange.bytes,
                "seconds": exchange.seconds,
                "hidden": exchange.hidden,
            }
            for exchange in step.roofline.exchanges
        ],
        "not_counted": list(step.costs.unknown),
    }


# ---- parts of the text --------------------------------------------------------------------------


def _rows(plan: Plan) -> list[list[str]]:
    steps = plan.steps
    all_costs = [step.costs for step in steps]
    totals = [step.memory.total for step in steps]
    size, size_name = _unit(max(totals), BINARY)

    def of_memory(label: str, values: list[int]) -> list[str]:
        return [label, *(f"{value / size:,.2f}" for value in values)]

    def of_costs(label: str, unit: str, values: list[int | None]) -> list[str]:
        scale, prefix = _unit(max(value or 0 for value in values), DECIMAL)
        words = ("?" if value is None else _figure(value / scale) for value in values)
        return [f"{label}, {prefix}{unit} a chip", *words]

    def known(figure: str, step: StepPlan) -> str:
        return figure if step.costs else "?"

    return [
        of_memory(f"parameters, {size_name} a chip", [step.memory.parameters for step in steps]),
        of_memory("optimizer state", [step.memory.optimizer for step in steps]),
        of_memory("batch or cache", [step.memory.inputs for step in steps]),
        of_memory("activations, gradients", [step.memory.activations for step in steps]),
        of_memory("outputs", [step.memory.outputs for step in steps]),
        of_memory("total", totals),
        of_costs("operations", "FLOP", [costs.flops if costs else None for costs in all_costs]),
        of_costs("bytes moved", "B", [costs.bytes if costs else None for costs in all_costs]),
        ["tokens", *(f"{step.tokens:,}" for step in steps)],
        ["time at best, ms", *(_milliseconds(step) for step in steps)],
        ["bound by", *(step.roofline.bound if step.roofline else "?" for step in steps)],
        ["tokens/s", *(known(f"{step.tokens / step.seconds:,.0f}", step) for step in steps)],
        ["MFU", *(known(f"{plan.mfu(step):.1%}", step) for step in steps)],
        ["compiled in, s", *(f"{step.compile_seconds:.1f}" for step in steps)],
    ]


def _unit(largest: int, units: dict[int, str]) -> tuple[int, str]:
    """The unit in which the largest of some figures is at least 1."""
    return next(((size, name) for size, name in units.items() if largest >= size), (1, ""))


def _milliseconds(step: StepPlan) -> str:
    return "?" if math.isinf(step.seconds) else _figure(1e3 * step.seconds)


def _figure(value: float) -> str:
    """Three digits, and more where they stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _verdict(step: StepPlan) -> list[str]:
    memory = step.memory
    spare = (memory.limit - memory.total) / GIB
    if memory.fits and step.costs is not None:
        return [f"{step.name}: fits, {spare:,.2f} GiB of {memory.limit / GIB:,.2f} to spare"]
    return [f"{step.name}: does not fit, {-spare:,.2f} GiB more than {memory.limit / GIB:,.2f}"]


def _exchanges(step: StepPlan) -> list[str]:
    if step.roofline is None or not step.roofline.exchanges:
        return []
    shown = step.roofline.exchanges[:SHOWN]
    scale, prefix = _unit(max(exchange.bytes for exchange in shown), DECIMAL)
    rows = [["  exchange", "over", "count", f"{prefix}B a chip", "ms", ""]]
    for exchange in shown:
        rows.append(
            [
                f"  {exchange.kind}",
                "+".join(exchange.axes),
                f"{exchange.count:,}",
                f"{exchange.bytes / scale:,.3f}",
                _figure(1e3 * exchange.seconds),
                "beside other work" if exchange.hidden else "",
            ]
        )
    left = len(step.roofline.exchanges) - SHOWN
    return [*_table(rows), *([f"  and {left} smaller kinds"] if left > 0 else [])]


def _table(rows: list[list[str]]) -> list[str]:
    """Columns of one width each, the first set left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [word.rjust(width) for word, width in zip(row[1:], widths[1:], strict=True)]
        ).rstrip()
        for row in rows
    ]
