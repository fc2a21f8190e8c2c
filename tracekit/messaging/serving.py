"""Serving: a function of the client that serves many operations, told apart by one of its parameters.

Of one transport or of several, which are installed one after another: the function is wrapped once.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracekit.patching import Function, Wrapper


class Serving:
    """The wrapper of such a function. What is no operation that a hook means costs one look-up.

    `parameter` is the one that tells, `names` the function's, where it does not tell them itself.
    """

    def __init__(self, parameter: str, names: Sequence[str] = ()) -> None:
        self._parameter = parameter
        self._names = names
        self._wrappers: dict[object, Wrapper] = {}
        self._functions: dict[object, Function] = {}
        self._original: Function | None = None

    def add(self, only: str, wrapper: Wrapper) -> None:
        """Have the operation of `parameter=value` wrapped too. Raises ValueError for another parameter."""
        parameter, _, value = only.partition("=")
        if parameter != self._parameter:
            raise ValueError(f"{only}: told apart by {self._parameter} already")
        self._wrappers[value] = wrapper
        if self._original is not None:
            self._functions[value] = wrapper(self._original)

    def __call__(self, function: Function) -> Function:
        self._original = function
        functions = self._functions
        functions.update({value: wrapper(function) for value, wrapper in self._wrappers.items()})
        parameter = self._parameter
        position = [*(self._names or inspect.signature(function).parameters)].index(parameter)

        @functools.wraps(function)
        def serve(*args: Any, **kwargs: Any) -> Any:
            value = args[position] if len(args) > position else kwargs.get(parameter)
            return functions.get(value, function)(*args, **kwargs)

        return serve
