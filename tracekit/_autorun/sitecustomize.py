"""Read by Python at its start, under `tracekit run`: arm the import hooks, then do as without us."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def _arm() -> None:
    try:
        from tracekit._autorun import arm

        arm()
    except Exception as error:  # noqa: BLE001 - whatever it is, the program runs
        print(
            f"tracekit: not tracing: {error} (is tracekit installed for {sys.executable}?)",
            file=sys.stderr,
            flush=True,
        )


def _chain() -> None:
    """Run the sitecustomize that Python would have found without ours."""
    here = Path(__file__).parent
    others = [entry for entry in sys.path if Path(entry or ".").resolve() != here.resolve()]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


_arm()
_chain()
