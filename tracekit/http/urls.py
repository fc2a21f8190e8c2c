"""Secrets in URLs, hidden in what contrib's instrumentors put on spans.

By themselves they hide userinfo and the four parameters that the conventions name, and only in a client's
`url.full`. Ours are also those whose name says that they are secret, and a server's `url.query`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from tracekit.guard import shielded
from tracekit.redaction import FAILED, REDACTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracekit.patching import Patches

_HIDDEN: Final = "REDACTED"  # as the conventions spell it
_PARAMETER: Final = re.compile(r"(?:^|(?<=[?&;#]))([^=?&;#]+)=([^&;#]+)")
_SIGNATURES: Final = ("signature", "awsaccesskeyid")  # of AWS, Azure (`sig`) and Google


def hide_secrets(patches: Patches, instrumentation: str) -> None:
    """Let the instrumentor of this module put URLs on spans without secrets."""
    with shielded("hiding secrets in URLs"):  # a later contrib may call it otherwise
        patches.wrap(f"{instrumentation}:redact_url", _redacting)


def without_secrets(url: str) -> str:
    """The URL, or its query, with the values of secret parameters replaced."""
    if "=" not in url:
        return url
    with shielded("the secrets in a URL"):
        return _PARAMETER.sub(_shown, url)
    return FAILED


def _redacting(original: Callable[[str], str]) -> Callable[[str], str]:
    return lambda url: without_secrets(original(url))


def _shown(parameter: re.Match[str]) -> str:
    # As frameworks read it: user[password], token[], and a + for a space.
    name = unquote(parameter[1]).replace("+", " ").rstrip("[] 0123456789")
    lowered = name.lower()
    if lowered == "sig" or lowered.endswith(_SIGNATURES) or REDACTOR.keys.search(name):
        return f"{parameter[1]}={_HIDDEN}"
    return parameter[0]
