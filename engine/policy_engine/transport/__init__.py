"""How bytes reach the kernel: gRPC servers that carry one session per stream."""
