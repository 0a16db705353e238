"""Series on dashboards that are not ours, which a real scrape must have: of Ray, Ray Serve, HAProxy and Prometheus."""

RAYS = frozenset(
    {
        "ray_cluster_active_nodes",
        "ray_component_rss_bytes",
        "ray_node_cpu_utilization",
        "ray_node_mem_total",
        "ray_node_mem_used",
        "ray_resources",
        "ray_serve_autoscaling_target_replicas",
        "ray_serve_deployment_replica_healthy",
        "ray_serve_replica_processing_queries",
        "haproxy_backend_current_queue",
        "haproxy_frontend_current_sessions",
        "haproxy_frontend_http_responses_total",
        "up",
    }
)
