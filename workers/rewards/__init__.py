"""From votes and signals to rewards. Pure functions: no Redis, no clock, no settings object."""
