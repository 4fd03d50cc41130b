"""What all rooms of the store share: the connection, and how long a trajectory's keys live."""

from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.store.keeping import KEEP
from trajectories.store.refs import TrajectoryRef


class Room:
    """Reads and writes records. Raises redis.RedisError when Redis cannot answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py types replies as bytes | str; ours are bytes

    @staticmethod
    def _expire(pipe: Any, ref: TrajectoryRef) -> None:
        """Let a trajectory, and the contents it refers to, live on from now."""
        pipe.eval(KEEP, 0, keys.trajectory(ref.tenant, ref.id), keys.messages(ref.tenant))
