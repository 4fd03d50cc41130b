"""What all rooms of the store share: the connection, and how long a trajectory's keys live."""

from typing import Any

from redis import Redis

from trajectories import keys
from trajectories.store.refs import TrajectoryRef


class Room:
    """Reads and writes records. Raises redis.RedisError when Redis cannot answer."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # redis-py types replies as bytes | str; ours are bytes

    @staticmethod
    def _expire(pipe: Any, ref: TrajectoryRef) -> None:
        for key in (
            keys.trajectory(ref.tenant, ref.id),
            keys.transitions_of(ref.tenant, ref.id),
            keys.superseded_of(ref.tenant, ref.id),
            keys.feedback_of(ref.tenant, ref.id),
            keys.rewards_of(ref.tenant, ref.id),
        ):
            pipe.expire(key, keys.TRAJECTORY_TTL_SECONDS)
