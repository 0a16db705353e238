"""Models: how long work waits for them, how they batch, what they write, and whether there are enough of them."""

from __future__ import annotations

from typing import Final

from grafana.panels import (
    WINDOW,
    Dashboard,
    Panel,
    Query,
    Row,
    Variable,
    largest,
    quantile,
    quantiles,
    rate,
    selector,
    total,
)
from grafana.scenes import SCENES

_OF: Final = 'model=~"$model"'
_DEPLOYMENT: Final = 'deployment=~"$model"'

_WANTED: Final = largest("ray_serve_autoscaling_target_replicas", _DEPLOYMENT, by="deployment")
_RUNNING: Final = total("ray_serve_deployment_replica_healthy", _DEPLOYMENT, by="deployment")

# A counter appears with its first death, which `increase` does not see.
_DEATHS: Final = selector("ray_argus_engine_deaths_total", _OF)
_DIED: Final = f"sum by (model) ({_DEATHS}) - (sum by (model) ({_DEATHS} offset 1h) or 0 * sum by (model) ({_DEATHS}))"

_BATCHES = Row(
    "Batches",
    (
        Panel(
            "Queue wait, P95",
            "From a call's arrival in the replica to the start of its forward pass. When it grows, the model is the "
            "bottleneck: more replicas, or a larger `batching.max_items` while batches are full.",
            "s",
            (Query(quantile(0.95, "ray_argus_queue_wait_seconds", _OF, by="model"), "{{model}}"),),
            runbook="docs/operations.md#what-each-alert-means",
        ),
        Panel(
            "Queue wait of the chosen models",
            "The same in the middle and in the tail.",
            "s",
            quantiles("ray_argus_queue_wait_seconds", _OF),
        ),
        Panel(
            "Items in a batch, mean",
            "Close to 1 under load means that items do not gather, close to `batching.max_items` that the model is "
            "saturated.",
            "short",
            (
                Query(
                    f"{rate('ray_argus_queue_wait_seconds_count', _OF, by='model')} / "
                    f"{rate('ray_argus_batch_items_count', _OF, by='model')}",
                    "{{model}}",
                ),
            ),
            decimals=1,
        ),
        Panel(
            "Forward pass, P95",
            "One pass over one batch. It grows with the batch; growth at the same batch is the device's.",
            "s",
            (Query(quantile(0.95, "ray_argus_forward_seconds", _OF, by="model"), "{{model}}"),),
        ),
        Panel(
            "Busiest replica",
            "Share of its time that the busiest replica spends in forward passes. Above 0.8 queue waits grow fast.",
            "percentunit",
            (
                Query(
                    f"max by (model) (rate({selector('ray_argus_forward_busy_seconds_total', _OF)}[{WINDOW}]))",
                    "{{model}}",
                ),
            ),
            thresholds=((0.8, "orange"),),
        ),
        Panel(
            "Preprocessing, P95",
            "Decoding and shaping one item, on the CPU. When it exceeds the forward pass, give the model "
            "`placement.preprocess_workers` and cores.",
            "s",
            (Query(quantile(0.95, "ray_argus_preprocess_seconds", _OF, by="model"), "{{model}}"),),
        ),
        Panel(
            "Items dropped a second",
            "Items that left the queue without running, by reason: their deadline passed, or their client went away.",
            "cps",
            (Query(rate("ray_argus_dropped_items_total", _OF, by="model, reason"), "{{model}}: {{reason}}"),),
            width=12,
            runbook="docs/operations.md#deadlines-and-overload",
        ),
        Panel(
            "Batches run again",
            "Batches that failed as a whole and were run item by item. Repeated ones point at inputs that a model "
            "cannot take, or at a device that fails.",
            "cps",
            (Query(rate("ray_argus_batch_retries_total", _OF, by="model"), "{{model}}"),),
            width=12,
            thresholds=((0.01, "orange"),),
            no_value="none",
        ),
    ),
)

_REPLICAS = Row(
    "Replicas",
    (
        Panel(
            "Replicas running and wanted",
            "Healthy replicas, and how many Ray Serve's autoscaler wants. A lasting gap means that there is no room on "
            "the nodes or that replicas do not start: `argus status` says which.",
            "short",
            (
                Query(_RUNNING, "{{deployment}}"),
                Query(_WANTED, "{{deployment}} wanted"),
            ),
            decimals=0,
            runbook="docs/operations.md#health",
        ),
        Panel(
            "Replicas missing",
            "Wanted less running, now.",
            "short",
            (
                Query(
                    f"{_WANTED} - ({_RUNNING} or 0 * {_WANTED})",
                    "{{deployment}}",
                ),
            ),
            kind="stat",
            thresholds=((1, "red"),),
            least=None,
            runbook="docs/operations.md#health",
        ),
        Panel(
            "Calls expected and what a replica does",
            "What the autoscaler expects of a model when a replica that it starts now will answer, and what it takes "
            "one replica to answer without taking too long: their quotient is what it wants (docs/autoscaling.md). "
            "Without routers' reports there is neither, and Ray Serve's own rule decides.",
            "cps",
            (
                Query(largest("ray_argus_autoscaling_expected_calls", _OF, by="model"), "{{model}} expected"),
                Query(largest("ray_argus_autoscaling_replica_calls", _OF, by="model"), "{{model}} a replica"),
            ),
            width=16,
            no_value="not scaled",
        ),
        Panel(
            "Decisions that failed",
            "Ray Serve's own rule took their place; the controller's log says why.",
            "cps",
            (Query(rate("ray_argus_autoscaling_failures_total"), "failed"),),
            thresholds=((0.001, "orange"),),
            no_value="none",
        ),
        Panel(
            "Requests at replicas",
            "Requests that replicas work on, as their callers count them.",
            "short",
            (
                Query(
                    total("ray_serve_replica_processing_queries", _DEPLOYMENT, by="deployment"),
                    "{{deployment}}",
                ),
            ),
        ),
        Panel(
            "GPU memory of a budget",
            "What the fullest replica of a model holds, as a share of its `gpu_memory_gb`. Above 1 a neighbour on the "
            "same GPU may run out of memory.",
            "percentunit",
            (
                Query(
                    f"max by (model) ({selector('ray_argus_gpu_memory_used_bytes', _OF)} / "
                    f"{selector('ray_argus_gpu_memory_budget_bytes', _OF)})",
                    "{{model}}",
                ),
            ),
            thresholds=((0.9, "yellow"), (1, "red")),
            no_value="no GPU",
            runbook="docs/operations.md#gpu-memory",
        ),
        Panel(
            "GPU memory",
            "What a replica and its processes hold, and what they may.",
            "bytes",
            (
                Query(largest("ray_argus_gpu_memory_used_bytes", _OF, by="model"), "{{model}} used"),
                Query(largest("ray_argus_gpu_memory_budget_bytes", _OF, by="model"), "{{model}} budget"),
            ),
            no_value="no GPU",
            runbook="docs/operations.md#gpu-memory",
        ),
        Panel(
            "Memory of replicas",
            "Resident memory of a deployment's processes, as Ray reads it. A steady rise under steady load is a leak.",
            "bytes",
            (
                Query(
                    total(
                        "ray_component_rss_bytes", 'Component=~"ray::ServeReplica:.*:($model|router)"', by="Component"
                    ),
                    "{{Component}}",
                ),
            ),
        ),
    ),
)

_WRITING = Row(
    "Models that write text",
    (
        Panel(
            "Time to the first token",
            "From the engine's taking a request to its first token. It grows with prompts and with what the engine has "
            "taken already.",
            "s",
            (Query(quantile(0.95, "ray_argus_time_to_first_token_seconds", _OF, by="model"), "{{model}} p95"),),
        ),
        Panel(
            "Time between tokens",
            "Mean of an answer, in the tail of answers. It grows with the number of answers written at once.",
            "s",
            (Query(quantile(0.95, "ray_argus_inter_token_seconds", _OF, by="model"), "{{model}} p95"),),
        ),
        Panel(
            "Requests in engines",
            "Requests that an engine has taken. At `batching.max_items` the others wait.",
            "short",
            (Query(total("ray_argus_generations_in_flight", _OF, by="model"), "{{model}}"),),
        ),
        Panel(
            "Tokens a second",
            "Read (media included) and written.",
            "cps",
            (
                Query(rate("ray_argus_prompt_tokens_total", _OF, by="model"), "{{model}} read"),
                Query(rate("ray_argus_generated_tokens_total", _OF, by="model"), "{{model}} written"),
            ),
        ),
        Panel(
            "Prompt tokens from a prefix cache",
            "Share of what is read that the engine held already. A fall makes first tokens later: see where repeated "
            "images go (`serve/affinity.py`).",
            "percentunit",
            (
                Query(
                    f"{rate('ray_argus_cached_prompt_tokens_total', _OF, by='model')} / "
                    f"{rate('ray_argus_prompt_tokens_total', _OF, by='model')}",
                    "{{model}}",
                ),
            ),
            most=1,
            no_value="none",
        ),
        Panel(
            "Engine deaths, an hour",
            "Engine processes that died and were replaced in place. Look for the reason in the replica's log; memory "
            "comes first.",
            "short",
            (Query(_DIED, "{{model}}"),),
            thresholds=((1, "red"),),
            decimals=0,
            no_value="none",
            runbook="docs/operations.md#health",
        ),
    ),
)

MODELS = Dashboard(
    "argus-models",
    "Argus: models",
    "How long work waits for models, how they batch, what they write, and whether there are enough of them.",
    (_BATCHES, _REPLICAS, _WRITING, SCENES),
    # Engines count no passes.
    (
        Variable(
            "model",
            "Model",
            selector("", '__name__=~"ray_argus_forward_seconds_count|ray_argus_generations_in_flight"'),
        ),
    ),
)
