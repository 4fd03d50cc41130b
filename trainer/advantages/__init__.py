"""Rewards to advantages: how much better than expected each call was. Pure."""
