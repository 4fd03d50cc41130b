"""The process that learns: from rewarded trajectories to a promoted adapter.

    trainable trajectories -> batching, samples -> round (policy, grpo | sft)
        -> publish -> gate -> swap (load, probe, promote, drain, unload)

The loop imports no torch: a round is a process of its own (`trainer.round`),
and only round.py, policy.py, grpo.py and sft.py import the training stack.
Nothing here serves a request, so that serving never waits for learning.
"""
