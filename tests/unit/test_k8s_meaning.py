"""What the committed objects say is what the cluster file says, and they fit each other."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

from deployments.gpu import Claim, pack
from serve.app import build
from serve.config.load import parse
from serve.config.model_base import CheckpointModel, StoreModel
from serve.kubernetes.cluster_file import parsed
from serve.kubernetes.settings import POOL_LABEL, check_pinned
from tests.unit.k8s_objects import (
    OVERLAYS,
    containers,
    matches,
    objects,
    of_kind,
    pods,
    ray,
    serve_config,
    shipped,
    the,
    walk,
)

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def deployments(overlay: str) -> dict[str, dict]:
    (application,) = serve_config(overlay)["applications"]
    return {one["name"]: one for one in application["deployments"]}


def groups(overlay: str) -> dict[str, dict]:
    return {one["groupName"]: one for one in ray(overlay)["workerGroupSpecs"]}


def memory_gb(quantity: str) -> float:
    assert quantity.endswith("M"), quantity
    return float(quantity[:-1]) / 1000


def test_shares_and_bounds_are_those_of_the_cluster_file(overlay: str) -> None:
    cluster = shipped(overlay).cluster
    found = deployments(overlay)
    assert list(found) == ["router", *cluster.models]
    routers = found["router"].get("autoscaling_config", {})
    for bound in ("min_replicas", "max_replicas"):  # equal ones, where the autoscaler is told what routers count
        assert routers.get(bound, found["router"].get("num_replicas")) == cluster.router.replicas
    for name, model in cluster.models.items():
        options, pool = found[name]["ray_actor_options"], cluster.node_pools[cluster.pool_of(name)]
        scaling = found[name].get("autoscaling_config", {})
        fixed = found[name].get("num_replicas")
        assert scaling.get("min_replicas", fixed) == model.autoscaling.min_replicas
        assert scaling.get("max_replicas", fixed) == model.autoscaling.max_replicas
        assert options["num_cpus"] == model.placement.num_cpus
        if not model.gpu_memory_gb:
            assert "num_gpus" not in options and "accelerator_type" not in options
            continue
        assert options["accelerator_type"] == pool.gpu
        # Ray keeps four decimals; the share is never less than the budget, and no more than that rounding above it.
        assert 0 <= options["num_gpus"] * pool.gpu_memory_gb - model.gpu_memory_gb < pool.gpu_memory_gb * 1e-4


def test_the_application_that_pods_build_is_the_one_that_is_configured(overlay: str) -> None:
    """Each deployment's options in code, under which Ray Serve puts those of the RayService, agree with them."""
    application = build(shipped(overlay).cluster)
    handles = application._bound_deployment.init_args[1]
    built = {"router": application._bound_deployment} | {
        name: handle._bound_deployment for name, handle in handles.items()
    }
    configured = deployments(overlay)
    assert built.keys() == configured.keys()
    for name, deployment in built.items():
        one = configured[name]
        options = dict(one["ray_actor_options"])
        options.pop("label_selector", None)
        assert {key: deployment.ray_actor_options.get(key) for key in options} == options
        if scaling := one.get("autoscaling_config"):
            made = deployment._deployment_config.autoscaling_config.model_dump()
            assert {key: made[key] for key in scaling} == scaling
        else:
            assert deployment.num_replicas == one["num_replicas"]


def test_nodes_are_those_of_the_cluster_file(overlay: str) -> None:
    cluster = shipped(overlay).cluster
    assert groups(overlay).keys() == cluster.node_pools.keys()
    for name, group in groups(overlay).items():
        pool = cluster.node_pools[name]
        assert group["minReplicas"] == group["replicas"] == pool.min_nodes and group["maxReplicas"] == pool.max_nodes
        assert group["resources"]["CPU"] == str(pool.cpus)
        (container,) = group["template"]["spec"]["containers"]
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits.get("nvidia.com/gpu") == group["resources"].get("GPU") == (str(pool.gpus) if pool.gpus else None)
        assert memory_gb(limits["memory"]) == memory_gb(requests["memory"])
        assert memory_gb(limits["memory"]) == pytest.approx(pool.memory_gb * pool.kubernetes.share, abs=0.001)
        assert float(requests["cpu"][:-1]) / 1000 == pytest.approx(pool.cpus * pool.kubernetes.share, abs=0.001)
        # Shared memory, with Ray's store of objects in it, counts as the pod's memory.
        shared = next(one for one in group["template"]["spec"]["volumes"] if one["name"] == "shared-memory")
        store = int(group["rayStartParams"]["object-store-memory"]) / 1e9
        assert store < memory_gb(shared["emptyDir"]["sizeLimit"]) < 0.5 * memory_gb(limits["memory"])
        if pool.gpus:
            assert group["resources"][f"accelerator_type:{pool.gpu}"] == "1"
            assert group["template"]["spec"]["nodeSelector"] and group["template"]["spec"]["tolerations"]


def test_fractions_on_a_node_never_exceed_its_gpus(overlay: str) -> None:
    """The fewest replicas, as the objects have them, placed one by one onto the fewest nodes, GPU by GPU."""
    cluster = shipped(overlay).cluster
    for name, group in groups(overlay).items():
        gpus = int(group["resources"].get("GPU", 0))
        claims = []
        for deployment in deployments(overlay).values():
            options = deployment["ray_actor_options"]
            if options.get("label_selector", {POOL_LABEL: name})[POOL_LABEL] != name or "num_gpus" not in options:
                continue
            least = deployment.get("autoscaling_config", {}).get("min_replicas", deployment.get("num_replicas"))
            claims.append(Claim(deployment["name"], options["num_gpus"], max(1, least)))
        packing = pack(claims, gpus, 1.0, nodes=max(1, group["minReplicas"]))
        assert packing.homeless == () and all(used <= 1.0 for used in packing.used_gb)
        assert bool(claims) == any(
            model.gpu_memory_gb for model_name, model in cluster.models.items() if cluster.pool_of(model_name) == name
        )
        assert sum(claim.budget_gb * claim.replicas for claim in claims) <= gpus * max(1, group["minReplicas"])


def test_replacements_start_first_except_where_two_must_not_be(overlay: str) -> None:
    """Else a model with one replica is away until its weights have loaded; a store's folder has one writer."""
    models = shipped(overlay).cluster.models
    for name, deployment in deployments(overlay).items():
        assert (deployment["max_surge_percent"] == 0) == (name in models and isinstance(models[name], StoreModel)), name


def test_replicas_are_bound_to_pools_that_exist(overlay: str) -> None:
    nodes = [group["labels"] for group in groups(overlay).values()]
    for name, deployment in deployments(overlay).items():
        selector = deployment["ray_actor_options"].get("label_selector", {})
        assert any(matches(selector, labels) for labels in nodes)
        if len(nodes) > 1 and name != "router":
            assert selector == {POOL_LABEL: shipped(overlay).cluster.pool_of(name)}


def test_the_file_in_the_pods_is_the_cluster_file(overlay: str) -> None:
    cluster = shipped(overlay).cluster
    text = the(overlay, "ConfigMap", "argus-cluster")["data"]["cluster.yaml"]
    (application,) = serve_config(overlay)["applications"]
    assert hashlib.sha256(text.encode()).hexdigest() == application["args"]["sha256"]
    read = parse(parsed(text))
    for name, model in cluster.models.items():
        other = read.models[name]
        if isinstance(model, StoreModel):
            assert isinstance(other, StoreModel) and re.fullmatch(r"/argus/var/[a-z]+", other.path)
            other = other.model_copy(update={"path": model.path})
        assert other == model
    assert read.model_copy(update={"models": cluster.models}) == cluster
    checkpoints = [model.checkpoint for model in cluster.models.values() if isinstance(model, CheckpointModel)]
    assert all(str(path) not in text for path in checkpoints if path.startswith("/"))


def test_the_head_does_no_work_and_outlives_itself(overlay: str) -> None:
    cluster = ray(overlay)
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in json.dumps(cluster["headGroupSpec"])
    assert the(overlay, "RayService", "argus")["spec"]["excludeHeadPodFromServeSvc"] is True
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["version"] == "v2"
    assert all(group["idleTimeoutSeconds"] > 0 for group in cluster["workerGroupSpecs"])
    redis = cluster["gcsFaultToleranceOptions"]["redisAddress"]
    host, _, port = redis.removeprefix("redis://").partition(":")
    service = the(overlay, "Service", host)
    assert int(port) in [one["port"] for one in service["spec"]["ports"]]
    # The operator names a namespace in Redis for each Ray cluster; a fixed one would be shared in an upgrade.
    assert "externalStorageNamespace" not in cluster["gcsFaultToleranceOptions"]


def test_rules_of_the_operator_that_its_definition_does_not_hold(overlay: str) -> None:
    """Ported from KubeRay 1.7: ray-operator/controllers/ray/utils/validation.go and pod.go."""
    cluster = ray(overlay)
    assert "upgradeStrategy" not in cluster
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert group["template"]["spec"]["restartPolicy"] == "Never"
        assert not {"labels", "resources"} & group["rayStartParams"].keys()
        assert not ("resources" in group and {"num-cpus", "num-gpus", "memory"} & group["rayStartParams"].keys())
    head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    named = {one["name"] for one in head["ports"]}
    assert {"serve", "serve-grpc", "as-metrics", "dash-metrics"} <= named


def test_pods_end_later_than_the_longest_request(overlay: str) -> None:
    longest = shipped(overlay).cluster.limits.max_timeout_s
    for deployment in deployments(overlay).values():
        assert deployment["graceful_shutdown_timeout_s"] > longest
    for group in groups(overlay).values():
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        drain = container["lifecycle"]["preStop"]["exec"]["command"]
        assert drain[1:4] == ["k8s", "drain", "--seconds"]
        assert longest < float(drain[4]) < spec["terminationGracePeriodSeconds"]


def test_probes_ask_what_is_open_without_a_key(overlay: str) -> None:
    for name, group in groups(overlay).items():
        (container,) = group["template"]["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert asked["readiness"]["path"] == "/v1/healthz", name
        assert ports[asked["readiness"]["port"]] == shipped(overlay).cluster.server.http_port
        assert {one["path"] for kind, one in asked.items() if kind != "readiness"} == {"/api/local_raylet_healthz"}


def test_images_are_pinned(overlay: str) -> None:
    images = [container["image"] for _, pod in pods(overlay) for container in containers(pod)]
    assert len(images) >= 6
    for image in images:
        check_pinned(image, "--image")


def test_nothing_runs_as_root_or_writes_to_its_image(overlay: str) -> None:
    for name, pod in pods(overlay):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True and own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}


def test_every_container_states_what_it_needs(overlay: str) -> None:
    for name, pod in pods(overlay):
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys() and "memory" in resources["limits"], name


def test_mounts_have_volumes_and_volumes_exist(overlay: str) -> None:
    claims = {one["metadata"]["name"] for one in of_kind(overlay, "PersistentVolumeClaim")}
    configs = {one["metadata"]["name"] for one in of_kind(overlay, "ConfigMap")}
    templates = {"data"}  # of the StatefulSet
    for name, pod in pods(overlay):
        volumes = {one["name"]: one for one in pod["spec"].get("volumes", [])}
        for container in containers(pod):
            mounts = container.get("volumeMounts", [])
            assert {one["name"] for one in mounts} <= volumes.keys() | templates, name
            assert max(Counter(one["mountPath"] for one in mounts).values(), default=1) == 1
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs


def test_secrets_are_only_named(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == []
    for one in objects(overlay):
        for inner in walk(one):
            if isinstance(inner, dict) and re.search(r"KEY|TOKEN|PASSWORD", str(inner.get("name", ""))):
                assert "value" not in inner, inner
    text = the(overlay, "ConfigMap", "argus-cluster")["data"]["cluster.yaml"]
    assert "auth" not in parsed(text)
    named = {name for provider in shipped(overlay).cluster.providers.values() if (name := provider.api_key_env)}
    for group in groups(overlay).values():
        env = {one["name"]: one for one in group["template"]["spec"]["containers"][0]["env"]}
        assert len(env) == len(group["template"]["spec"]["containers"][0]["env"]), "a variable stands twice"
        assert all("secretKeyRef" in env[name]["valueFrom"] for name in named)


def test_keys_are_required_except_on_one_machine(overlay: str) -> None:
    (application,) = serve_config(overlay)["applications"]
    local = shipped(overlay).local
    assert application["args"].get("insecure", False) is local and ("keys_file" in application["args"]) is not local


def test_every_selector_chooses_a_pod(overlay: str) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(overlay)}
    selectors = []
    for one in objects(overlay):
        spec, kind = one.get("spec", {}), one["kind"]
        if kind == "NetworkPolicy":
            selectors.append(spec["podSelector"])
            # Peers in this namespace; those elsewhere are others' pods, and a Gateway makes its own.
            rules = [*spec.get("ingress", []), *spec.get("egress", [])]
            peers = [peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]]
            selectors += [peer["podSelector"] for peer in peers if peer.keys() == {"podSelector"}]
        elif kind in ("PodDisruptionBudget", "PodMonitor", "Service", "StatefulSet"):
            selectors.append(spec["selector"])
    selectors = [one for one in selectors if "gateway.networking" not in json.dumps(one)]
    assert len(selectors) >= 9
    for selector in selectors:
        assert any(matches(selector, one) for one in labels.values()), selector


def test_every_pod_is_behind_a_policy_and_every_worker_behind_a_budget(overlay: str) -> None:
    policies = [one["spec"] for one in of_kind(overlay, "NetworkPolicy")]
    assert all(spec["policyTypes"] == ["Ingress", "Egress"] for spec in policies)
    assert any(spec["podSelector"] == {} and not spec.keys() & {"ingress", "egress"} for spec in policies)
    budgets = [one["spec"]["selector"] for one in of_kind(overlay, "PodDisruptionBudget")]
    for name, group in groups(overlay).items():
        assert sum(matches(one, group["template"]["metadata"]["labels"]) for one in budgets) == 1, name


def test_rays_own_ports_are_open_to_nobody_outside(overlay: str) -> None:
    """GCS, dashboard and agents answer to Ray's pods and to the operator."""
    for one in of_kind(overlay, "NetworkPolicy"):
        for rule in one["spec"].get("ingress", []):
            open_to_all = [peer for peer in rule["from"] if "namespaceSelector" in peer]
            ports = {port["port"] for port in rule.get("ports", [])}
            if open_to_all and one["metadata"]["name"] not in ("argus-head", "argus-redis"):
                assert ports and not ports & {6379, 8265, 10001, 52365}


def test_ports_are_named_once_and_references_find_them(overlay: str) -> None:
    names: dict[str, set[str]] = {}
    for name, pod in pods(overlay):
        ports = [port for container in containers(pod) for port in container.get("ports", [])]
        for key in ("name", "containerPort"):
            assert len({one[key] for one in ports}) == len(ports), name
        assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", one["name"]) for one in ports)
        names[name] = {one["name"] for one in ports}
        for container in containers(pod):
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "httpGet" in container.get(probe, {}):
                    assert container[probe]["httpGet"]["port"] in names[name]
    service = the(overlay, "RayService", "argus")["spec"]["serveService"]["spec"]["ports"]
    server = shipped(overlay).cluster.server
    assert {one["targetPort"]: one["port"] for one in service} == {
        "serve": server.http_port,
        "serve-grpc": server.grpc_port,
    }
    assert all(one["targetPort"] in names[group] for one in service for group in groups(overlay))
    for one in of_kind(overlay, "PodMonitor"):
        chosen = [name for name, pod in pods(overlay) if matches(one["spec"]["selector"], pod["metadata"]["labels"])]
        assert all(end["port"] in names[pod] for end in one["spec"]["podMetricsEndpoints"] for pod in chosen)


def test_routes_lead_to_the_service(overlay: str) -> None:
    spec = the(overlay, "RayService", "argus")["spec"]["serveService"]
    ports = {one["port"]: one["appProtocol"] for one in spec["spec"]["ports"]}
    gateways = {one["metadata"]["name"]: one for one in of_kind(overlay, "Gateway")}
    routes = [*of_kind(overlay, "HTTPRoute"), *of_kind(overlay, "GRPCRoute")]
    assert bool(gateways) == bool(routes) == (not shipped(overlay).local)
    for route in routes:
        assert all(parent["name"] in gateways for parent in route["spec"]["parentRefs"])
        wanted = "kubernetes.io/h2c" if route["kind"] == "GRPCRoute" else "http"
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert backend["name"] == spec["metadata"]["name"] and ports[backend["port"]] == wanted


def test_priority_classes_exist(overlay: str) -> None:
    classes = {one["metadata"]["name"]: one["value"] for one in of_kind(overlay, "PriorityClass")}
    used = {name: pod["spec"]["priorityClassName"] for name, pod in pods(overlay)}
    assert set(used.values()) <= classes.keys()
    assert classes[used["argus-load"]] < 0 < classes[used[next(iter(groups(overlay)))]] < classes[used["head"]]


def test_weights_are_fetched_where_workers_look_for_them(overlay: str) -> None:
    cluster = shipped(overlay).cluster
    checkpoints = [model.checkpoint for model in cluster.models.values() if isinstance(model, CheckpointModel)]
    hub = [name for name in checkpoints if not name.startswith("/")]
    pulls = [one for one in of_kind(overlay, "Job") if one["metadata"]["name"].startswith("argus-weights-")]
    assert len(pulls) == (1 if hub else 0)
    for group in groups(overlay).values():
        (prepare,) = group["template"]["spec"]["initContainers"]
        assert ("--weights" in prepare["command"]) == bool(hub)
        if hub:
            digest = pulls[0]["metadata"]["name"].removeprefix("argus-weights-")
            assert prepare["command"][-1] == f"/weights/.complete-{digest}"


def test_load_is_not_generated_unasked(overlay: str) -> None:
    job = the(overlay, "Job", "argus-load")
    assert job["spec"]["suspend"] is True
    from benchmarks.targets import load_targets

    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    workload, hardware = command[2], command[command.index("--profile") + 1]
    assert hardware in load_targets().workloads[workload].places


def test_alerts_of_the_cluster_are_there(overlay: str) -> None:
    rules = of_kind(overlay, "PrometheusRule")
    if shipped(overlay).local:
        assert rules == []
        return
    (rule,) = rules
    alerts = {one["alert"] for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one}
    assert {"ArgusTargetDown", "ArgusReplicasMissing"} <= alerts
    dashboards = [one for one in of_kind(overlay, "ConfigMap") if one["metadata"]["labels"].get("grafana_dashboard")]
    assert len(dashboards) == 5 and all(json.loads(text) for one in dashboards for text in one["data"].values())
    # A server keeps the last applied object in an annotation of at most 256 KiB.
    assert all(len(json.dumps(one)) < 250_000 for one in objects(overlay))
