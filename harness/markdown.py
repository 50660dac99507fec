"""Text of records as Markdown that GitHub shows as it is: no markup, no HTML, nothing that turns the writing."""

import os
import re
from collections.abc import Sequence
from urllib.parse import quote

MARKUP = re.compile(r"([\\`*\[\]<>|~$])|(?<!\w)(_)|(_)(?!\w)")


def printable(text: str) -> str:
    """Without what steers a terminal or the direction of writing; a line's end stays."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def flat(text: object) -> str:
    """Printable, in one line."""
    return " ".join(printable(str(text)).split())


def plain(text: object) -> str:
    """Text in which no character means anything to Markdown, nor makes a link of itself."""
    escaped = MARKUP.sub(lambda found: "\\" + found[0], flat(text).replace("&", "&amp;"))
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")


def code(text: object) -> str:
    """A code span; a backtick in it becomes an apostrophe."""
    return f"`{flat(text).replace('`', chr(39)).replace('|', chr(92) + '|') or ' '}`"


def url(path: str) -> str:
    """A relative address of a file, whatever bytes its name has."""
    return quote(os.fsencode(path))


def link(shown: str, path: str) -> str:
    """A link to a file, relative; `shown` is Markdown."""
    return f"[{shown}]({url(path)})"


def image(alternative: object, path: str) -> str:
    return f"![{plain(alternative)}]({url(path)})"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [list(headers), ["---"] * len(headers), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
