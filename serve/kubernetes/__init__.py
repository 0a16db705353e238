"""Kubernetes objects of a cluster file: a RayService of KubeRay and what it needs. `argus k8s render` writes them.

Plain mappings, one module an object; what pods run themselves is in `prepare`, `weights` and `drain`.
"""
