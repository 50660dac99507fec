"""Tasks whose rewards a program can verify: text in, text out, no torch and no download (GSM8K has its own loader).

`TASKS` names them. A rollout of any task: give `prompt` to the engine; while `reply` says something to the outputs so
far, append it and let the engine go on; then `reward` judges.
"""

from trainers.tasks.arithmetic import Arithmetic
from trainers.tasks.calculator import Calculator
from trainers.tasks.copying import Copying
from trainers.tasks.gsm8k import Gsm8k
from trainers.tasks.task import Example, Task

TASKS: dict[str, type[Task]] = {
    "copying": Copying,
    "arithmetic": Arithmetic,
    "calculator": Calculator,
    "gsm8k": Gsm8k,
}

__all__ = ["TASKS", "Arithmetic", "Calculator", "Copying", "Example", "Gsm8k", "Task"]
