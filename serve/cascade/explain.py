"""A cascade drawn as text: what is asked of whom, when it goes on, and what its calibration expects."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from serve.calibration.file import StepCalibration
from serve.cascade import rules
from serve.cascade.gears import GearPrice, StepPrice, price
from serve.config.cascades import Cascade, CascadeStep, Gear, Policy

_WIDTH = 100
_BAR = "  |    "


def explain(name: str, cascade: Cascade) -> str:
    """Several lines of plain ASCII text; the same for the same cascade."""
    head = f"{name}: answers with {_SHAPES[cascade.answer]}, within {cascade.deadline_s:g} s"
    lines = [head]
    if cascade.labels:
        lines += _wrapped("labels: " + ", ".join(cascade.labels))
    if cascade.policy is not None:
        lines += [line for part in _policy(cascade.policy) for line in _wrapped(part)]
    lines += ["", "  request"]
    reached: float | None = 1.0
    for step in _path(cascade):
        evidence = None if cascade.evidence is None else cascade.evidence.steps.get(step.name)
        lines += ["     |", *_step(cascade, step, evidence, reached)]
        accepted = _accepted(step, evidence)
        reached = None if reached is None or accepted is None else reached * (1 - accepted)
    lines += ["     |", f"    end: {_end(cascade)}", ""]
    lines += _wrapped(_calibration(cascade))
    shadow = cascade.shadow
    if shadow.share:
        text = (
            f"shadow: {_percent(shadow.share)} of accepted answers are checked by the next step; alarm when more than "
            f"{_percent(shadow.alarm_error)} of them are wrong"
        )
        lines += _wrapped(text)
    for gear in cascade.gears:
        lines += _wrapped(_gear(cascade, gear))
    return "\n".join(lines) + "\n"


def _gear(cascade: Cascade, gear: Gear) -> str:
    bounds = [] if gear.above_queue_wait_ms is None else [f"calls wait over {gear.above_queue_wait_ms:g} ms"]
    if gear.above_requests_per_s is not None:
        bounds.append(f"over {gear.above_requests_per_s:g} requests/s arrive")
    changes = [f"{step} from {threshold:g}" for step, threshold in gear.thresholds.items()]
    changes += [] if gear.max_tokens is None else [f"at most {gear.max_tokens} tokens"]
    changes += [] if gear.max_image_side is None else [f"images of at most {gear.max_image_side} px"]
    changes += ["providers at once"] if gear.api_overflow else []
    text = f"gear {gear.name}: while {' or '.join(bounds)}: {', '.join(changes) or 'nothing changes'}"
    return f"{text}; {_price(price(gear, cascade.evidence))}" if gear.thresholds else text


_SHAPES = {"label": "a label", "text": "a text", "json": "JSON"}


def _path(cascade: Cascade) -> Iterator[CascadeStep]:
    step: CascadeStep | None = cascade.steps[0]
    while step is not None:
        yield step
        step = cascade.after(step)


def _step(
    cascade: Cascade, step: CascadeStep, evidence: StepCalibration | None, reached: float | None
) -> Iterator[str]:
    share = "" if reached is None or reached == 1.0 else f"   expected: {_percent(reached)} of requests"
    yield f"  +- {step.name}: {step.use} {step.task}{share}"
    if step.prompt is not None:
        yield from _wrapped(f'asks "{" ".join(step.prompt.split())}"', _BAR)
    yield from _wrapped(f"accepts {_rule(step, evidence)}", _BAR)
    accepted = _accepted(step, evidence)
    if accepted is not None and evidence is not None:
        yield f"{_BAR}expected: answers {_percent(accepted)} itself, goes on with {_percent(1 - accepted)}"
    if step.deadline_share is not None:
        yield f"{_BAR}takes at most {_percent(step.deadline_share)} of the time left"
    for other in step.fallback:
        yield from _wrapped(f"falls back to {other.use} on {', '.join(other.on)}", _BAR)
    following = cascade.after(step)
    if following is not None:
        yield f"{_BAR}otherwise, or when it fails: {following.name}"


def _rule(step: CascadeStep, evidence: StepCalibration | None) -> str:
    rule = step.accept.rule
    if rule == "always":
        return "every answer"
    if rule == "agreement":
        return "what the step before said too"
    if rule == "schema":
        return "JSON that fits the schema"
    if rule == "python":
        return f"what {step.accept.function} accepts"
    threshold = rules.threshold_of(step, evidence, None)
    if rule == "confidence" and evidence is not None:
        if evidence.threshold > 1:
            return f"nothing: no threshold could be certified for {_percent(evidence.target)} agreement"
        return (
            f"confidence >= {evidence.threshold:.4f} (calibrated: {_percent(evidence.target)} agreement at "
            f"{_percent(evidence.confidence)} confidence, from {evidence.samples} samples, temperature "
            f"{evidence.temperature:.3f})"
        )
    shown = "the calibration file's, unread" if threshold is None else f"{threshold:g}"
    return f"{rule} >= {shown} (NOT calibrated)"


def _accepted(step: CascadeStep, evidence: StepCalibration | None) -> float | None:
    """Share of the requests that reach a step which it answers; None when nobody has measured it."""
    if step.accept.rule == "always":
        return 1.0
    if step.accept.rule != "confidence" or evidence is None:
        return None
    if evidence.threshold > 1:
        return 0.0
    at_least = [point for point in evidence.curve if point.threshold >= evidence.threshold]
    return at_least[-1].accepted if at_least else None


def _policy(policy: Policy) -> Iterator[str]:
    for outcome in ("allow", "block", "review"):
        if labels := getattr(policy, outcome):
            yield f"{outcome}: {', '.join(labels)}"
    yield "review: whatever no step accepted" + (
        f", and answers below {policy.review_below:g}" if policy.review_below else ""
    )


def _end(cascade: Cascade) -> str:
    if cascade.on_failure == "error":
        return "the last answer; when the last step failed, its error"
    return "the last answer; when a later step failed, the one before it, marked degraded"


def _calibration(cascade: Cascade) -> str:
    if cascade.evidence is not None:
        return f"calibration: of {cascade.evidence.made.isoformat()}" + (
            "" if rules.is_calibrated(cascade) else ", not of every threshold"
        )
    if any(step.accept.rule in ("confidence", "margin") for step in cascade.steps):
        return "calibration: none; thresholds were typed in, so nothing is known of what they accept"
    return "calibration: none is needed, no rule has a threshold"


def _price(cost: GearPrice) -> str:
    said = [_step_price(one) for one in cost.steps]
    if cost.unknown:
        said.append(f"what that costs is unknown for {', '.join(cost.unknown)}: not calibrated")
    return "; ".join(said)


def _step_price(one: StepPrice) -> str:
    bound = f"at least {_percent(one.agreement_lower)}" if one.measured else "not measured so low"
    return (
        f"{one.step} then answers {_percent(one.accepted)} instead of {_percent(one.usually_accepted)}, right in "
        f"{_percent(one.agreement)} ({bound})"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".rstrip("0").rstrip(".") + "%"


def _wrapped(text: str, mark: str = "  ") -> list[str]:
    """Lines that begin with `mark`, the further ones set in."""
    return textwrap.wrap(text, _WIDTH, initial_indent=mark, subsequent_indent=f"{mark}  ", break_long_words=False)
