"""What may be taken away: how many pods at once, and who goes first."""

from __future__ import annotations

from serve.kubernetes.settings import NAME, POOL_LABEL, Object, Settings, labels, made

# Above what users usually give their own work, below the system's classes (two billion).
_PRIORITIES = {"head": 1_000_000, "worker": 900_000, "batch": -10}


def budgets(settings: Settings) -> list[Object]:
    """One worker of a pool at a time may be evicted, and the head not at all: it goes when somebody deletes it."""
    pools = [
        made(
            "PodDisruptionBudget",
            f"{NAME}-worker-{name}",
            "worker",
            {"maxUnavailable": 1, "selector": {"matchLabels": labels("worker") | {POOL_LABEL: name}}},
            api="policy/v1",
        )
        for name in settings.cluster.node_pools
    ]
    head = {"maxUnavailable": 0, "selector": {"matchLabels": labels("head")}}
    return [*pools, made("PodDisruptionBudget", f"{NAME}-head", "head", head, api="policy/v1")]


def priority_classes() -> list[Object]:
    """PriorityClasses; batch work waits and never pushes anything out."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": f"{NAME}-{name}", "labels": labels("priority")},
            "value": value,
            "preemptionPolicy": "Never" if value < 0 else "PreemptLowerPriority",
            "description": f"Argus: {name}.",
        }
        for name, value in _PRIORITIES.items()
    ]
