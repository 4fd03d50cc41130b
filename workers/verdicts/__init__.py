"""Verdicts: what judges, webhooks and custom rewards think of a closed trajectory.

None of it is a pure function of the record, so none of it runs in a reward
job. Each verdict is a job of its own, on a queue of its own, and enters the
store as a vote; a judge that fails gives none.
"""
