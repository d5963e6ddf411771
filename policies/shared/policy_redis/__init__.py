"""Redis for policies: a client with bounded waiting, and a circuit, so that an outage costs few requests time.

A plain library, shared by the policies that keep state in Redis; it is no policy itself. See its README.
"""

from policy_redis.circuit import Circuit
from policy_redis.connection import RedisLink, StoreUnavailable
from policy_redis.parameters import redis_from, seconds

__all__ = ["Circuit", "RedisLink", "StoreUnavailable", "redis_from", "seconds"]
