"""`argus bench`: measurements of Argus beside its alternatives, each in one run on one machine."""

from serve.cli.bench import models, planning, scaling, scenes, serving, simulating, surviving
from serve.cli.bench.command import app

__all__ = ["app", "models", "planning", "scaling", "scenes", "serving", "simulating", "surviving"]
