"""One module a model, and what they share: the adapter contract, the batcher, the GPU budget."""

from serve.loopback import restrict_grpc_servers

# A replica imports its deployment before Ray Serve opens the replica's server, so this is the moment.
restrict_grpc_servers()
