"""What must not be kept: secrets, what identifies people, and what somebody asked to forget."""
