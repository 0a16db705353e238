"""Checks of the `cascades` section that need more than one value: each problem names key, value and what is right."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import jsonschema

from deployments.templates import resolve
from serve.calibration.file import Calibration
from serve.config.cascades import END, SHAPE_OF, Cascade, CascadeStep, Task
from serve.config.checkpoints import checkpoint_mark
from serve.config.cluster import ClusterFile
from serve.config.models import ClipModel, CustomModel, GenerativeModel
from serve.errors import InvalidRequest

_FIELDS = ("{question}", "{labels}")


def cascade_problems(cluster: ClusterFile) -> Iterator[str]:
    """Everything that is wrong with the cascades of a file."""
    taken = cluster.models.keys() | cluster.providers.keys()
    for name, cascade in cluster.cascades.items():
        key = f"cascades.{name}"
        if name in taken:
            yield f"{key}: a model or provider has the same name; names must be unique across all three"
        yield from _step_problems(cluster, cascade, key)
        yield from _path_problems(cascade, key)
        yield from _shape_problems(cascade, key)
        yield from _policy_problems(cascade, key)
        yield from _gear_problems(cascade, key)
        if cascade.evidence is not None:
            yield from _calibration_problems(cluster, name, cascade, cascade.evidence, key)


def able(cluster: ClusterFile, task: Task) -> list[str]:
    """Names of the models and providers that can do a task."""
    if task == "classify":
        return [
            name
            for name, model in cluster.models.items()
            if isinstance(model, ClipModel) or (isinstance(model, CustomModel) and "classify" in model.tasks)
        ]
    chats = [name for name, model in cluster.models.items() if isinstance(model, GenerativeModel)]
    return chats + list(cluster.providers)


def _step_problems(cluster: ClusterFile, cascade: Cascade, key: str) -> Iterator[str]:
    for i, step in enumerate(cascade.steps):
        where = f"{key}.steps.{i}"
        yield from _use_problems(cluster, step, step.use, f"{where}.use")
        for j, fallback in enumerate(step.fallback):
            yield from _use_problems(cluster, step, fallback.use, f"{where}.fallback.{j}.use")
        rule = step.accept.rule
        if rule == "agreement" and i == 0:
            yield f"{where}.accept.rule: got 'agreement'; the first step has none before it to agree with"
        evidence = None if cascade.evidence is None else cascade.evidence.steps.get(step.name)
        # An unread file may hold the threshold: whoever calibrates loads the cluster file without it.
        if rule == "confidence" and step.accept.at_least is None and evidence is None and cascade.calibration is None:
            yield f"{where}.accept.at_least: is missing; without a calibration of this step it must be from 0 to 1"
        if SHAPE_OF[step.task] != cascade.answer:
            right = ", ".join(task for task, shape in SHAPE_OF.items() if shape == cascade.answer)
            yield (
                f"{where}.task: got {step.task!r}, which gives a {SHAPE_OF[step.task]}; the cascade's answer is "
                f"{cascade.answer!r}, so it must be one of {right}"
            )
        if step.prompt is not None:
            yield from _prompt_problems(step.prompt, f"{where}.prompt")


def _use_problems(cluster: ClusterFile, step: CascadeStep, use: str, key: str) -> Iterator[str]:
    known = sorted(cluster.models.keys() | cluster.providers.keys())
    right = able(cluster, step.task)
    if use not in known:
        yield f"{key}: got {use!r}; it must be a model or provider of this file{_close(use, known)}: {', '.join(known)}"
    elif use not in right:
        yield f"{key}: got {use!r}, which does not {step.task}; it must be one of {', '.join(right) or 'none here'}"


def _prompt_problems(prompt: str, key: str) -> Iterator[str]:
    rest = prompt
    for field in _FIELDS:
        rest = rest.replace(field, "")
    if "{question" in rest or "{label" in rest:
        yield f"{key}: got {prompt!r}; the fields that are filled in are {' and '.join(_FIELDS)}"


def _path_problems(cascade: Cascade, key: str) -> Iterator[str]:
    """Names that stand twice, steps that do not exist, cycles, and steps that nothing leads to."""
    names = [step.name for step in cascade.steps]
    twice = sorted({name for name in names if names.count(name) > 1})
    for name in twice:
        yield f"{key}.steps: two steps are named {name!r}; names must be unique in a cascade"
    unknown = False
    for i, step in enumerate(cascade.steps):
        if step.next is not None and step.next not in (*names, END):
            unknown = True
            yield f"{key}.steps.{i}.next: got {step.next!r}; it must be {END!r} or one of {', '.join(names)}"
    if twice or unknown:
        return
    walked: list[str] = []
    reached: CascadeStep | None = cascade.steps[0]
    while reached is not None:
        if reached.name in walked:
            circle = [*walked[walked.index(reached.name) :], reached.name]
            place = names.index(walked[-1])
            yield f"{key}.steps.{place}.next: got {reached.name!r}, which closes a circle: {' -> '.join(circle)}"
            break
        walked.append(reached.name)
        reached = cascade.after(reached)
    for i, name in enumerate(names):
        if name not in walked:
            yield f"{key}.steps.{i}: no step leads to {name!r}; name it in a `next`, or remove it"


def _shape_problems(cascade: Cascade, key: str) -> Iterator[str]:
    if cascade.answer == "label":
        if len(cascade.labels) < 2:
            yield f"{key}.labels: got {list(cascade.labels)}; an answer that is a label needs at least two"
        folded = [label.casefold().strip() for label in cascade.labels]
        for label, fold in zip(cascade.labels, folded, strict=True):
            if folded.count(fold) > 1:
                yield f"{key}.labels: {label!r} stands twice, case aside; labels must be distinct"
                break
        try:
            resolve(cascade.templates)
        except InvalidRequest as error:
            yield f"{key}.templates: {error.message}"
    elif cascade.labels:
        yield f"{key}.labels: got {list(cascade.labels)}, but the answer is {cascade.answer!r}; labels are for 'label'"
    if cascade.json_schema is not None:
        if cascade.answer != "json":
            yield f"{key}.json_schema: is given, but the answer is {cascade.answer!r}; a schema is for 'json'"
        try:
            jsonschema.Draft202012Validator.check_schema(cascade.json_schema)
        except jsonschema.SchemaError as error:
            yield f"{key}.json_schema: is no JSON Schema: {error.message[:200]}"
    for i, step in enumerate(cascade.steps):
        if step.accept.rule == "schema" and cascade.json_schema is None:
            yield f"{key}.steps.{i}.accept.rule: got 'schema'; the cascade has no json_schema to fit"


def _policy_problems(cascade: Cascade, key: str) -> Iterator[str]:
    policy = cascade.policy
    if policy is None:
        return
    if cascade.answer != "label":
        yield f"{key}.policy: is given, but the answer is {cascade.answer!r}; a policy needs labels"
        return
    placed = [*policy.allow, *policy.block, *policy.review]
    for outcome in ("allow", "block", "review"):
        for label in getattr(policy, outcome):
            if label not in cascade.labels:
                hint = _close(label, cascade.labels)
                yield f"{key}.policy.{outcome}: got {label!r}, which is none of the labels{hint}"
    for label in cascade.labels:
        if placed.count(label) != 1:
            said = "in no list" if label not in placed else "in several lists"
            yield f"{key}.policy: label {label!r} stands {said}; it must be in exactly one of allow, block, review"


def _gear_problems(cascade: Cascade, key: str) -> Iterator[str]:
    names = [gear.name for gear in cascade.gears]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{key}.gears: two gears are named {name!r}; names must be unique in a cascade"
    decided = [step.name for step in cascade.steps if step.accept.rule in ("confidence", "margin")]
    for i, gear in enumerate(cascade.gears):
        for step in gear.thresholds:
            if step not in decided:
                yield (
                    f"{key}.gears.{i}.thresholds.{step}: is no step with a threshold; there are "
                    f"{', '.join(decided) or 'none'}"
                )
    for bound in ("above_queue_wait_ms", "above_requests_per_s"):
        values = [value for gear in cascade.gears if (value := getattr(gear, bound)) is not None]
        if values != sorted(values):
            yield f"{key}.gears: {bound} is {values}; gears must stand by rising load"


def _calibration_problems(
    cluster: ClusterFile, name: str, cascade: Cascade, calibration: Calibration, key: str
) -> Iterator[str]:
    if calibration.cascade != name:
        yield f"{key}.calibration: is of cascade {calibration.cascade!r}; it must be of {name!r}"
        return
    steps = {step.name: step for step in cascade.steps}
    for step_name, evidence in calibration.steps.items():
        step = steps.get(step_name)
        if step is None:
            yield f"{key}.calibration: has a step {step_name!r}; the cascade has {', '.join(steps)}"
            continue
        if step.accept.rule != "confidence":
            yield f"{key}.calibration: has step {step_name!r}, whose rule is {step.accept.rule!r}, not 'confidence'"
        if step.use in cluster.models or step.use in cluster.providers:
            mark = checkpoint_mark(cluster, step.use)
            if evidence.checkpoint != mark:
                yield (
                    f"{key}.calibration: step {step_name!r} was calibrated on {evidence.checkpoint!r}, {step.use} is "
                    f"{mark!r}; `argus calibrate {name}` makes it anew"
                )


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
