"""Whose round runs: one at a time in one process, from its first row to its last phase."""


class Turn:
    """Taken by a policy when its round begins, given back when that has ended."""

    def __init__(self) -> None:
        self.holder: str | None = None

    def is_free_for(self, policy: str) -> bool:
        """Whether the policy may begin or go on."""
        return self.holder in (None, policy)

    def take(self, policy: str) -> bool:
        """Whether it is the policy's turn from now on."""
        if not self.is_free_for(policy):
            return False
        self.holder = policy
        return True

    def give_back(self, policy: str) -> None:
        """The policy's round has ended; nothing happens where it had none."""
        if self.holder == policy:
            self.holder = None
