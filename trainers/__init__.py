"""The training side of the stack that rollbench measures: batches, advantages, losses, tasks.

It knows nothing of `harness`: it is the thing measured, not the measuring. Shape letters, in names and docstrings:
B sequences, T tokens of the longest sequence, N tokens of all sequences, D hidden size, V vocabulary. docs/trainers.md
has the formulas.
"""
