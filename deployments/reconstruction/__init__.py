"""Scenes from photos: structure from motion, then Gaussians or a radiance field trained on the views."""
