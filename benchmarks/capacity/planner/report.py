"""A plan in Markdown, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.capacity.planner.plan import CalledPlan, Plan


def markdown(plan: Plan, pictures: Mapping[str, str] | None = None) -> str:
    """The report.

    Args:
        pictures: title to file name, beside the report.
    """
    parts = [_head(plan)]
    if not plan.feasible:
        parts.append(_refusal(plan))
    else:
        parts += [_cluster(plan), _promises(plan), _headroom(plan), _latency(plan), _change(plan), _even(plan)]
        parts += [f"## {title}\n\n![{title}]({name})\n" for title, name in (pictures or {}).items()]
    parts.append(_basis(plan))
    return "\n".join(part for part in parts if part)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _head(plan: Plan) -> str:
    flows = ", ".join(f"{flow.name} ({flow.entry}, {plan.rate_per_s * flow.share:.4g}/s)" for flow in plan.flows)
    asked = "; ".join(one.label for one in plan.objectives)
    lines = [
        "# Capacity plan",
        "",
        f"Traffic: {flows}. Arrivals: {plan.arrivals}; {plan.rate_per_s:.4g} requests a second.",
        f"Asked: {asked}; at {100 * plan.confidence:g} % confidence, over {len(plan.seeds)} seeds of "
        f"{plan.run_seconds:.0f} s. A request that is refused or fails is a miss.",
    ]
    if plan.feasible:
        nodes = " + ".join(f"{one.rented} x {one.name}" for one in plan.nodes)
        apis = "".join(f" + {one.provider}" for one in plan.providers)
        spare = " Any one node may be lost." if plan.survives_node_loss else ""
        lines += [
            "",
            f"**{nodes}{apis}: {plan.usd_per_hour:.2f} $/h** (nodes {plan.nodes_usd_per_hour:.2f}, calls "
            f"{plan.calls_usd_per_hour:.2f}), {plan.usd_per_1000:.4f} $ for 1,000 requests.{spare}",
        ]
    return "\n".join(lines) + "\n"


def _refusal(plan: Plan) -> str:
    lines = ["**There is no such cluster in this catalogue.**", ""]
    lines += [f"* {reason}" for reason in plan.reasons]
    if plan.nearest is not None:
        lines += ["", f"Nearest that can be had: {plan.nearest}."]
    return "\n".join(lines) + "\n"


def _cluster(plan: Plan) -> str:
    nodes = [
        (one.name, one.working, one.rented, f"{one.usd_per_hour:.3f}", one.price, _contents(one.contents), one.source)
        for one in plan.nodes
    ]
    text = "## Cluster\n\n" + _table(("node", "needed", "rented", "$/h each", "as", "on each", "price from"), nodes)
    for node in plan.nodes:
        if node.price != plan.price:
            text += f"\nThe catalogue has no {plan.price} price of {node.name}; it is rented {node.price}.\n"
    if plan.stages:
        rows = [
            (
                one.name,
                one.node,
                one.replicas,
                f"{one.gpu_fraction:.4g} ({one.gpu_memory_gb:g} GB)" if one.gpu_fraction else "CPU",
                one.max_items,
                f"{one.max_queue} waiting, then {one.overflow}" if one.overflow else "",
            )
            for one in plan.stages
        ]
        head = ("model", "node", "replicas", "GPU a replica", "batch limit", "overflow")
        text += "\n" + _table(head, rows)
    text += f"\nRouter replicas: {plan.routers}.\n"
    for call in plan.providers:
        instead = f" in place of {call.stands_in_for}" if call.stands_in_for else ""
        text += (
            f"\n{call.provider}{instead}: {call.calls_per_s:.4g} calls a second at {call.usd_per_call:.6f} $, "
            f"{call.usd_per_hour:.2f} $/h{_of_its_limits(call)}.\n"
        )
    if plan.usd_per_day is not None and plan.calls_usd_per_hour:
        text += (
            f"\nA day at this load: {24 * plan.calls_usd_per_hour:.2f} $ of calls; resilience.usd_per_day allows "
            f"{plan.usd_per_day:.2f} $.\n"
        )
    for one in plan.thresholds:
        text += (
            f"\nThreshold of {one.cascade}.{one.step}: {one.threshold:.4f} (file: {one.before:.4f}); certified "
            f"agreement {one.certified_agreement:.4f}, {100 * one.escalated:.2f} % go on.\n"
        )
    if plan.left_out:
        text += f"\nNot planned, since no flow asks them: {', '.join(plan.left_out)}.\n"
    return text


def _of_its_limits(call: CalledPlan) -> str:
    if call.calls_per_minute is None:
        return ""
    return f"; {60 * call.calls_per_s:.4g} of the {call.calls_per_minute:.4g} calls a minute that its limits let pass"


def _contents(contents: Sequence[Mapping[str, int]]) -> str:
    seen = dict.fromkeys(", ".join(f"{count} {name}" for name, count in sorted(one.items())) or "-" for one in contents)
    return "; ".join(seen)


def _promises(plan: Plan) -> str:
    rows = [
        (
            one.objective,
            _share_or_ms(one.measured, one.objective),
            _share_or_ms(one.bound, one.objective),
            _share_or_ms(one.allowed, one.objective),
            "" if one.value_s is None else f"{1e3 * one.value_s:.1f} ms",
            "yes" if one.held else "no",
        )
        for one in plan.findings
    ]
    head = ("objective", "missed, or mean", "upper bound", "allowed", "value", "held")
    return (
        "## Objectives\n\n"
        + _table(head, rows)
        + "\nThe bound is one-sided: Clopper-Pearson on the effective number of requests (Korn and Graubard 1998) for "
        "shares, Student's t over blocks of the runs for means.\n"
    )


def _share_or_ms(value: float, label: str) -> str:
    return f"{1e3 * value:.1f} ms" if label.startswith("mean") else f"{100 * value:.3f} %"


def _headroom(plan: Plan) -> str:
    if not plan.stages:
        return ""
    rows = [
        (
            one.name,
            f"{one.calls_per_s:.4g}",
            f"{one.capacity_per_s:.4g}",
            f"{one.use:.3f}",
            f"{one.use_per_point:+.3f}",
            f"{one.burst_per_s:.4g}",
            f"{one.envelope_per_s:.4g}",
            "-" if one.mean_bound_ms is None else f"{one.mean_bound_ms:.1f}",
            f"{one.busy_share:.2f}",
            f"{one.mean_batch:.2f}",
            f"{one.queue_wait_ms:.1f}",
        )
        for one in plan.stages
    ]
    head = (
        "model",
        "calls/s",
        "capacity/s",
        "rho",
        "rho for +1 point",
        "needed for bursts/s",
        "enough by envelope/s",
        "mean by Inoue, about, ms",
        "busy",
        "batch",
        "wait, ms",
    )
    text = "## Headroom\n\n" + _table(head, rows)
    if plan.capacity_per_s:
        held = ", ".join(f"{flow} {rate:.4g}/s" for flow, rate in plan.capacity_per_s.items())
        text += f"\nLoad up to which the objectives hold: {held}.\n"
    return text


def _latency(plan: Plan) -> str:
    rows = [
        (
            one.flow,
            one.path,
            f"{100 * one.share:.2f} %",
            *(f"{value:.1f}" for value in (one.mean_ms, one.p50_ms, one.p95_ms, one.p99_ms)),
        )
        for one in plan.latencies
    ]
    head = ("flow", "answered by", "share", "mean, ms", "P50", "P95", "P99")
    return "## Latency\n\n" + _table(head, rows)


def _change(plan: Plan) -> str:
    if not plan.what_if:
        return ""
    rows = [
        (
            one.change,
            "yes" if one.held else "no",
            one.worst,
            f"{one.bound_over_allowed:.2f}" if one.bound_over_allowed < 1e6 else "-",
            "none found" if one.usd_per_hour_to_hold is None else f"{one.usd_per_hour_to_hold:.2f}",
            one.remark,
        )
        for one in plan.what_if
    ]
    head = ("change", "still held", "nearest objective", "its bound / allowed", "$/h to hold it", "remark")
    return "## When things change\n\n" + _table(head, rows)


def _even(plan: Plan) -> str:
    if not plan.break_even:
        return ""
    rows = [
        (
            one.stage,
            f"{one.node} at {one.node_usd_per_hour:.3f} $/h",
            f"{one.provider} at {one.usd_per_call:.6f} $",
            f"{one.calls_per_s:.3g}",
            f"{one.node_capacity_per_s:.3g}",
            one.verdict,
        )
        for one in plan.break_even
    ]
    head = ("model", "hosted", "or called", "break-even, calls/s", "a node does at most", "at this load")
    return "## Host or call\n\n" + _table(head, rows)


def _basis(plan: Plan) -> str:
    lines = list(_basis_lines(plan))
    return "## What this rests on\n\n" + "\n".join(f"* {line}" for line in lines) + "\n"


def _basis_lines(plan: Plan) -> Iterator[str]:
    yield (
        f"{plan.candidates_simulated} candidates, {plan.requests_simulated:,} requests simulated; the plan took "
        f"{plan.search_seconds:.1f} s, all of it {plan.total_seconds:.1f} s."
    )
    if plan.feasible:
        yield (
            "Nothing cheaper was left untried."
            if plan.proven
            else "The search left some out: something cheaper may exist."
        )
    yield from (f"Profile {name}: {what}." for name, what in plan.provenance.items())
