"""Scoring: from the traffic streams to rewards.

Two processes, which meet only in Redis: the dispatcher stores records and asks
for reward jobs, workers run them. Neither serves a request, neither trains.
"""
