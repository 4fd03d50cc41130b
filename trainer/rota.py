"""Several policies in one process: each has a loop of its own, and one round runs at a time.

Every loop holds its policy's lease and says its own status, so that a policy
may as well be trained by another process (`python -m trainer --policy NAME`):
it is left to that one for as long as that one lives. Whoever loses one lease
goes on with the others. Memory and processors are shared, so a round of one
policy waits until that of another has ended; whoever had a round comes last
for the next.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from redis import RedisError

from trainer.loop import TICK_SECONDS, Loop
from trainer.turn import Turn
from trajectories.keys import LEASE_TTL_SECONDS
from trajectories.lease import LeaseHeld, LeaseLost

logger = logging.getLogger(__name__)


class Rota:
    """Goes round the loops of all policies. Use as a context manager."""

    def __init__(
        self,
        loops: Sequence[Loop],
        turn: Turn,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`turn` is the one that all `loops` were made with."""
        self._waiting = list(loops)  # whose lease another process holds
        self._loops: list[Loop] = []
        self._turn = turn
        self._clock = clock
        self._ask_at = float("-inf")

    @property
    def loops(self) -> tuple[Loop, ...]:
        """Those that this process runs, the next to begin a round first."""
        return tuple(self._loops)

    def __enter__(self) -> "Rota":
        """Raises LeaseHeld when every policy has a trainer already, and what a loop does."""
        try:
            held = self._take_over(is_first=True)
        except BaseException:
            self.__exit__()
            raise
        if not self._loops and held is not None:
            raise held
        return self

    def __exit__(self, *exception: object) -> None:
        while self._loops:
            self._loops.pop().__exit__(*exception)

    def run(self, stop: threading.Event) -> None:
        """Cycle until `stop` is set. Raises LeaseLost of the last policy, and nothing else."""
        while not stop.is_set():
            self.cycle()
            stop.wait(TICK_SECONDS)

    def cycle(self) -> None:
        """One cycle of every policy."""
        if self._waiting and self._clock() >= self._ask_at:
            self._take_over()
        for loop in self.loops:
            was_its_turn = self._turn.holder == loop.policy
            try:
                loop.guarded_cycle()
            except LeaseLost as lost:
                self._let_go(loop, lost)
                continue
            if was_its_turn and self._turn.holder is None:
                self._loops.remove(loop)
                self._loops.append(loop)

    def _let_go(self, loop: Loop, lost: LeaseLost) -> None:
        """Go on without a policy until its lease is free again."""
        if len(self._loops) == 1:
            raise lost
        logger.warning("left to another trainer: %s", lost)
        loop.step_down()
        self._loops.remove(loop)
        self._waiting.append(loop)
        self._ask_at = self._clock() + LEASE_TTL_SECONDS

    def _take_over(self, *, is_first: bool = False) -> LeaseHeld | None:
        """Enter the loops whose lease is free; the last refusal.

        What else goes wrong is for whoever starts the process to know; later it is only
        logged, and tried again: another policy's round may be running.
        """
        self._ask_at = self._clock() + LEASE_TTL_SECONDS
        refusal = None
        for loop in tuple(self._waiting):
            try:
                loop.__enter__()
            except LeaseHeld as held:
                logger.info("left to another trainer: %s", held)
                refusal = held
            except Exception as error:  # one policy's trouble must not end the rounds of others
                if is_first:
                    raise
                if isinstance(error, RedisError):
                    logger.warning("%s is taken over later: %s", loop.policy, error)
                else:
                    logger.exception("%s is taken over later", loop.policy)
            else:
                self._waiting.remove(loop)
                self._loops.append(loop)
        return refusal
