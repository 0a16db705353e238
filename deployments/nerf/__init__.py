"""Neural radiance fields: the MLP of Mildenhall et al. 2020 and hash grids of Mueller et al. 2022, in plain PyTorch."""
