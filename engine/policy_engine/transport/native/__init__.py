"""The native transport: HTTP/2 (RFC 9113) and gRPC framing of our own for the one service the engine offers.

`server` is the way in. `connection`, `sending`, `flow_control`, `frames`, `headers` know HTTP/2 and no sockets;
`call` and `messages` know gRPC; `protocol` joins both to asyncio.
"""
