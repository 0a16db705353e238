"""What the renderers of 3D scenes share: cameras, requests, and how pictures are written."""
