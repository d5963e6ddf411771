"""Where chains come from: chain files here, a management server in `xds`."""
