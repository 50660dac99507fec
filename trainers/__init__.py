"""The training side of the stack that rollbench measures: batches, advantages, losses, models.

Empty for now. It will know nothing of `harness`: it is the thing measured, not the measuring.
"""
