"""Records on disk: one file each under results/<machine>/<scenario>/<case>/, written whole, never edited."""

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from harness.errors import UserError
from harness.record import Record

FOREIGN = "foreign"  # a folder of the results: other tools' figures, which are no records


def writable(root: Path) -> Path:
    """The results folder, made if it is not there. Raises UserError, before anything is measured, when no file can be
    written into it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return root
    except OSError as error:
        raise UserError(
            f"results folder {root} cannot be written: {error.strerror}; name another with --results"
        ) from None


def write(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with writing(path) as file:
        file.write(text.encode())


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into, of bytes: under another name first, flushed to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
        scratch = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            scratch.chmod(0o644)
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise


def save(record: Record, root: Path) -> Path:
    """Save a record under a name made of engine, time and content; the path."""
    text = dump(record)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    name = f"{record.engine}-{record.started:%Y%m%dT%H%M%SZ}-{digest}.json"
    path = root / record.machine.id / record.case / name
    write(path, text)
    return path


def keep(log: Path, record: Path) -> None:
    """Put what a launch left beside its log (the sampler's series, every request's times) into a folder beside the
    record, gzipped. It stays out of git; a record says all that is compared."""
    for name in ("series.jsonl", "requests.json"):
        source = log.with_suffix(f".{name}")
        if source.is_file():
            target = record.with_suffix("") / f"{log.stem}.{name}.gz"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(gzip.compress(source.read_bytes(), mtime=0))
            source.unlink()


def dump(record: Record) -> str:
    """JSON with a line for each field and each launch, so that a diff can be read."""
    data = record.model_dump(mode="json", by_alias=True)
    launches = ",\n  ".join(json.dumps(launch) for launch in data.pop("launches"))
    fields = "".join(f" {json.dumps(name)}: {json.dumps(value)},\n" for name, value in data.items())
    return f'{{\n{fields} "launches": [\n  {launches}\n ]\n}}\n'


def load(path: Path) -> Record:
    """The record in a file. Raises UserError, naming the file, when it holds none."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        if any(found["loc"] == ("foreign",) for found in error.errors()):
            why = "another tool's result: `rollbench compare` and the report show it, nothing compares or gates it"
            raise UserError(f"{path}: {why}") from None
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise UserError(f"{path}: not a record ({where}: {first['msg']})") from None


def scan(root: Path) -> Iterator[tuple[Path, Record | str]]:
    """Every JSON file of the results with its record, or with the reason why it is none; oldest name first."""
    for path in files(root):
        try:
            yield path, load(path)
        except UserError as error:
            yield path, str(error)


def files(root: Path) -> list[Path]:
    """Every JSON file of the results, oldest name first; none of what is foreign or lies in hidden folders."""
    found = list[str]()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".") and root / FOREIGN != Path(folder, name)]
        found += [f"{folder}/{name}" for name in names if name.endswith(".json") and not name.startswith(".")]
    return [Path(name) for name in sorted(found)]


def newest(root: Path, machine_id: str) -> tuple[dict[tuple[str, str], Record], list[str]]:
    """The newest record of every case and engine on that machine, and why files were passed over."""
    kept, skipped = dict[tuple[str, str], Record](), list[str]()
    for _, found in scan(root):
        if isinstance(found, str):
            skipped.append(found)
        elif found.machine.id == machine_id:
            key = found.case, found.engine
            if key not in kept or kept[key].started < found.started:
                kept[key] = found
    return kept, skipped
