"""Secrets are not repeated: neither in a log line (`logs`) nor in what a program says of its end."""

import re
from collections.abc import Mapping

_NAMES = ("SECRET", "TOKEN", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY")
_LEAST = 8
"""Characters: a shorter value may be a word like any other."""
_IN_A_URL = re.compile(r"(://[^\s/:@'\"]*):[^\s/'\"]+@")
"""scheme://user:password@host, as proxies and package indexes are given."""


def secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Value → name of the variables that are named like secrets; the longest first, since one may begin with another."""
    found = {
        value: name for name, value in environ.items() if len(value) >= _LEAST and any(word in name.upper() for word in _NAMES)
    }
    return dict(sorted(found.items(), key=lambda each: -len(each[0])))


def without(text: str, found: Mapping[str, str]) -> str:
    """`text` with the names of these secrets in their place, and no password in a URL."""
    for value, name in found.items():
        text = text.replace(value, f"<{name}>")
    return _IN_A_URL.sub(r"\1:<password>@", text) if "://" in text else text
