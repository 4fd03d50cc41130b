"""Recorded trajectories to the rows of a round: which ones, and what of them."""
