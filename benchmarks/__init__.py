"""What is measured: the gateway beside others, and the spool."""
