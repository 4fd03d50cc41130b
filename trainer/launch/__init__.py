"""Starting a round on several processes: accelerate's configurations, and the launcher itself.

    loop -> python -m trainer.launch -> accelerate launch -> trainer.round, once per process

Each process ends with the one that started it, so that a killed trainer leaves
none behind, on any rank.
"""
