"""`argus plan`: the cheapest cluster that holds its objectives, found by bounds, search and simulation.

The steps are those of InferLine (Crankshaw et al. 2020, arXiv 1812.01776): profiles and arrivals bound what each stage
needs, a search over nodes, replicas and batch limits tries what is cheapest first, and a simulation of the cluster says
whether the objectives hold. What is new here are shared GPUs, cascades whose escalation decides the later stages' load,
hosted APIs beside hosted models, and a stated confidence.
"""
