"""What `tracekit run` puts on a program's path: it watches the imports, nothing more.

Providers, threads and the start-up line come with the first import of a library that is instrumented, or
of OpenTelemetry. So supervisors and resource trackers stay silent, a server that forks its workers does
so before there is a thread, and every worker is traced.
"""

from __future__ import annotations

import sys
from importlib.machinery import NamespaceLoader, PathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

PACKAGES: Final = ("fastapi", "httpx", "kafka", "opentelemetry", "requests", "structlog")
"""The imports that begin the tracing: what says that a program does something to be traced."""


def arm() -> None:
    """Configure tracekit once one of PACKAGES was imported."""
    if sys.modules.keys().isdisjoint(PACKAGES):
        sys.meta_path.insert(0, _Watch())
    else:
        _configure()


class _Watch:
    """Stands among Python's finders: it finds what they find, and sees when that is whole.

    In the middle of one of PACKAGES nobody could import it, so tracing begins when none is under way.
    `opentelemetry` is a namespace: it is whole before anything in it is begun.
    """

    def __init__(self) -> None:
        self._looking_for = ""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in PACKAGES or name == self._looking_for:
            return None
        self._looking_for = name
        try:
            return self._watched(find_spec(name))
        except Exception:  # noqa: BLE001 - Python's own finders say what is wrong
            return None
        finally:
            self._looking_for = ""

    def _watched(self, spec: ModuleSpec | None) -> ModuleSpec | None:
        if spec is None:
            return None
        if spec.loader is None:
            spec.loader = NamespaceLoader(
                spec.name, [*(spec.submodule_search_locations or ())], PathFinder.find_spec
            )
        loader = spec.loader
        execute = loader.exec_module

        def execute_and_look(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            execute(module)
            vars(module).setdefault("__file__", None)  # as Python has it for a namespace
            self._is_whole(module.__name__)

        vars(loader)["exec_module"] = execute_and_look
        return spec

    def _is_whole(self, package: str) -> None:
        if self in sys.meta_path and not any(_is_begun(other) for other in PACKAGES if other != package):
            sys.meta_path.remove(self)
            _configure()


def _is_begun(package: str) -> bool:
    """Whether it is being imported right now."""
    return bool(getattr(getattr(sys.modules.get(package), "__spec__", None), "_initializing", False))


def _configure() -> None:
    try:
        from tracekit._configure import configure, is_configured

        if not is_configured():
            configure()
    except Exception as error:  # noqa: BLE001 - the program goes on untraced, and says why
        print(f"tracekit: not tracing: {error}", file=sys.stderr, flush=True)
