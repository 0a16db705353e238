"""Typed configuration: the cluster file, its profiles, and the checks that need more than one section."""

from serve.config.cluster import ClusterFile
from serve.config.load import PROFILES, load_file, load_profile
from serve.config.models import ClipModel, CustomModel, Model, VectorIndexModel

__all__ = [
    "PROFILES",
    "ClipModel",
    "ClusterFile",
    "CustomModel",
    "Model",
    "VectorIndexModel",
    "load_file",
    "load_profile",
]
