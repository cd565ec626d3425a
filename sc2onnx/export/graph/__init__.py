"""The computation, node by node. No I/O here: weights are names with shapes."""
