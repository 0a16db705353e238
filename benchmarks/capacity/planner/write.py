"""A solution as files in a folder."""

from __future__ import annotations

from pathlib import Path

from benchmarks.capacity.planner.cluster_yaml import cluster_yaml
from benchmarks.capacity.planner.plots import cost_plot, latency_plot, use_plot
from benchmarks.capacity.planner.recording import recording_rules
from benchmarks.capacity.planner.report import markdown
from benchmarks.capacity.planner.solve import Solution

# All that a folder may hold of a plan; what this one has not is another's.
_NAMES = ("plan.json", "cluster.yaml", "plan.rules.yaml", "cost.svg", "latency.svg", "use.svg", "report.md")


def write(solution: Solution, folder: Path) -> list[Path]:
    """Writes plan.json and report.md and, when there is a plan, cluster.yaml, plan.rules.yaml and the pictures.

    What an earlier plan left in the folder and this one has not is removed; other files stay.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = solution.plan
    files = {"plan.json": plan.model_dump_json(indent=1) + "\n"}
    pictures: dict[str, str] = {}
    if solution.cluster is not None:
        files["cluster.yaml"] = cluster_yaml(solution.cluster, plan)
        files["plan.rules.yaml"] = recording_rules(plan, solution.cluster.name)
        drawn = {
            "Cost against strictness": ("cost.svg", cost_plot(plan)),
            "Latency": ("latency.svg", latency_plot(plan, solution.runs)),
            "Use of each stage": ("use.svg", use_plot(plan) if plan.stages else None),
        }
        for title, (name, picture) in drawn.items():
            if picture is not None:
                files[name] = picture
                pictures[title] = name
    files["report.md"] = markdown(plan, pictures)
    for name in _NAMES:
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]
