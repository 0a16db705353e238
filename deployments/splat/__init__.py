"""3D Gaussian splatting (Kerbl et al. 2023): scenes, their files, edits, and two rasterisers behind one interface."""
