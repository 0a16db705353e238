"""What Prometheus and Grafana are given: rules, alerts and dashboards, made from the cluster file and the code."""
