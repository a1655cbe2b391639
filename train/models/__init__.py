"""The networks: from uint8 cells [N, size, size, 3] to the probability of ALL, float32 [N, 1]."""
