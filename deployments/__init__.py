"""One module a model, and what they share: the adapter contract, the batcher, the GPU budget."""
