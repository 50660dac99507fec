"""GSM8K: grade-school word problems, their loader and the check of an answer.

Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168; `openai/gsm8k` on the hub.
"""

import importlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from trainers.tasks.task import Example, OneTurn, is_held_out

INSTRUCTION = ' Let\'s think step by step and output the final answer after "####".'
NUMBER = r"((?<![\w)])[-−])?(?:\$([-−])?)?([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
FINAL = re.compile(r"####\s*" + NUMBER)
ANY = re.compile(NUMBER)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Gsm8k(OneTurn):
    """where: a folder with the splits `train` and `test`, a file, or a dataset's name on the hub. A lone file is split
    as other tasks are. lenient: without "####" the last number of an output counts."""

    where: str = "openai/gsm8k"
    lenient: bool = False

    def examples(self, count: int, seed: int, *, held_out: bool = False) -> list[Example]:
        found = load(self.where, "test" if held_out else "train")
        if Path(self.where).is_file():
            found = [example for example in found if is_held_out(example.prompt) == held_out]
        if count > len(found):
            raise ValueError(
                f"{self.where} has {len(found)} problems with held_out={held_out}, not {count}: ask for less"
            )
        return random.Random(seed).sample(found, count)

    def reward(self, example: Example, outputs: Sequence[str]) -> float:
        """1 for the right number, else 0."""
        said = final(outputs[-1])
        if said is None and self.lenient:
            said = last_number(outputs[-1])
        return float(said == Decimal(example.answer))


def final(text: str) -> Decimal | None:
    """The number behind the last "####": `#### 1,234.50` is 1234.5, `#### $18.` is 18; None where there is none."""
    return _last(FINAL, text)


def last_number(text: str) -> Decimal | None:
    return _last(ANY, text)


def _last(pattern: re.Pattern[str], text: str) -> Decimal | None:
    found = pattern.findall(text)
    if not found:
        return None
    sign, behind, digits = found[-1]
    value = Decimal(digits.replace(",", ""))
    return -value if sign or behind else value


def load(where: str, split: str) -> list[Example]:
    """All problems of a split (of a lone file: all). Raises ValueError with what to do when they cannot be read."""
    return [_example(row, place, where) for place, row in enumerate(_rows(where, split))]


def _example(row: Row, place: int, where: str) -> Example:
    answer = final(str(row.get("answer")))
    if answer is None or "question" not in row:
        raise ValueError(f"row {place} of {where} has no question with an answer behind ####: is it GSM8K?")
    return Example(row["question"] + INSTRUCTION, str(answer))


def _rows(where: str, split: str) -> list[Row]:
    path = Path(where)
    if path.is_file():
        return _read(path)
    if not path.is_dir():
        return _hub(where, split)
    folder = path / "main" if (path / "main").is_dir() else path
    for suffix in READERS:
        if files := [*folder.glob(f"{split}{suffix}"), *sorted(folder.glob(f"{split}-*{suffix}"))]:
            return [row for file in files for row in _read(file)]
    raise ValueError(f"{folder} has no {split}.jsonl and no {split}-*.parquet: name the folder or the file of GSM8K")


def _read(path: Path) -> list[Row]:
    if path.suffix not in READERS:
        raise ValueError(f"{path} is none of {', '.join(READERS)}: convert it, or name another file")
    return READERS[path.suffix](path)


def _parquet(path: Path) -> list[Row]:
    if parquet := _package("pyarrow.parquet"):
        return list(parquet.read_table(path).to_pylist())
    if pandas := _package("pandas"):
        return list(pandas.read_parquet(path).to_dict("records"))
    raise ValueError(f"nothing here reads {path}: install pyarrow, or convert it to .jsonl")


def _jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


READERS: dict[str, Callable[[Path], list[Row]]] = {".parquet": _parquet, ".jsonl": _jsonl}


def _hub(name: str, split: str) -> list[Row]:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"{name} is neither a file nor a folder nor a name on the hub (organisation/name)")
    if datasets := _package("datasets"):
        return list(datasets.load_dataset(name, "main", split=split))
    raise ValueError(f"{name} is not here, and the hub needs the package datasets: install it, or name a local file")


def _package(name: str) -> Any:
    """The module, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None
