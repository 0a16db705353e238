"""How many replicas there are to be: decisions as pure functions, and what ties them to Ray Serve and the routers.

`plan` (what the cluster file says) and `evidence` (what routers count) go in; `decide` decides, over `rates`, `curve`
and `queue_rule`; `demand` counts in the router, `ray_policy` is what Ray Serve's controller calls. docs/autoscaling.md.
"""
