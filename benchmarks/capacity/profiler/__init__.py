"""`argus profile`: what a model costs on this machine, measured alone and served.

Alone (`passes`, `engines`): forward passes by batch size, the CPU work before them, an engine's steps. Served
(`instance`, `served`, `tape`): a cluster of this one model is started and asked, idle and loaded; what router, hop and
replica add is the difference, and how much longer everything takes on busy cores is the ratio (`measured`). `build`
puts a profile together.
"""
