"""Errors a person reads: each says what, where, and what to do. The command line prints one line and ends non-zero."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; its text is the whole message."""


class EnvironmentMissing(UserError):
    """An engine has no interpreter on this machine."""


class NotComparable(UserError):
    """Two records differ in a field in which they must agree."""


class LaunchFailed(Exception):
    """An engine died, hung or refused; the text holds what it did and the tail of its log."""


class BadOffer(LaunchFailed):
    """What a sender offers does not fit the engine. Nothing was touched: the engine goes on with what it has."""


LISTED = 24  # names in an error


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?` for a name mistyped, else the list of those known, as many as a line can hold."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1)
    matches = [n for n in names if close and n.lower() == close[0]]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"did you mean {matches[0]}?" if matches else f"known are {', '.join(names[:LISTED])}{more}"
