"""How rollbench measures: everything here runs in the light environment, without torch, except `worker/`.

`worker/` runs inside an engine's environment and may import nothing of the light one but `wire` and `rollouts`,
which need only the standard library and numpy.
"""

__version__ = "0.1.0"
