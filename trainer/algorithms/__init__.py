"""Rows to weights: the losses, and TRL's trainers that carry them."""
