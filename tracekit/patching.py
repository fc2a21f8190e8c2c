"""Patches: tables of what is wrapped, applied once its module is imported, and undone exactly.

An integration says which import shows that the application uses a library, and installs its patches
then. Undoing walks the same table backwards; where somebody else wrapped our wrapper meanwhile, ours
stays inside theirs and only passes on.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import wrapt

from tracekit.guard import shielded

Function: TypeAlias = Callable[..., Any]  # somebody else's: what it takes and gives is its own matter
Wrapper: TypeAlias = Callable[[Function], Function]

_MISSING = object()
IS_MUTABLE = 1 << 9
"""The flag of a class whose methods can be replaced (Py_TPFLAGS_HEAPTYPE)."""
_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


class Patches:
    """What was wrapped, in order, with the way back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []
        self._active = True

    @property
    def active(self) -> bool:
        """False once undone: import hooks that are still armed do nothing then."""
        return self._active

    def wrap(self, target: str, wrapper: Wrapper) -> None:
        """Replace `package.module:Class.method` (or `package.module:function`) by its wrapper.

        A class that is written in C lets nobody replace its methods: its name stands for a subclass then.
        Raises ImportError or AttributeError where there is no such target, TypeError where it cannot be
        replaced.
        """
        module_name, _, path = target.partition(":")
        owner: object = importlib.import_module(module_name)
        *parents, name = path.split(".")
        for parent in parents:
            holder, owner = owner, getattr(owner, parent)
            if isinstance(owner, type) and not owner.__flags__ & IS_MUTABLE:
                owner = self._standing_in(holder, parent, owner)
        before = vars(owner).get(name, _MISSING)
        original = getattr(owner, name) if before is _MISSING else before
        is_static = isinstance(original, staticmethod)
        function: Function = original.__func__ if isinstance(original, staticmethod) else original
        is_coroutine = inspect.iscoroutinefunction(function)
        if isinstance(owner, type) and not is_static:
            function = _callable_unbound(function)
        ours = self._switchable(function, wrapper(function), is_coroutine=is_coroutine)
        placed: object = staticmethod(ours) if is_static else ours
        setattr(owner, name, placed)
        self._undo.append(functools.partial(_restore, owner, name, placed, before))

    def _standing_in(self, holder: object, name: str, original: type) -> type:
        """A subclass in the place of a class that cannot be changed; what is an instance stays one."""

        class Standing(type(original)):  # type: ignore[misc]  # whatever class its class has
            def __instancecheck__(cls, instance: object) -> bool:
                # Of a subclass of this one, as of any class.
                return isinstance(instance, original) if cls is ours else super().__instancecheck__(instance)

            def __subclasscheck__(cls, subclass: type) -> bool:
                return issubclass(subclass, original) if cls is ours else super().__subclasscheck__(subclass)

        ours = Standing(original.__name__, (original,), {"__module__": original.__module__})
        ours.__qualname__, ours.__doc__ = original.__qualname__, original.__doc__
        setattr(holder, name, ours)
        self._undo.append(functools.partial(_restore, holder, name, ours, original))
        return ours

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Have `undo` called when these patches are undone, the last one first."""
        self._undo.append(undo)

    def after_undo(self, action: Callable[[], None]) -> None:
        """Have `action` called once everything was put back."""
        self._after.append(action)

    def undo(self) -> None:
        """Put everything back. What cannot be put back passes on from here."""
        self._active = False
        for actions in (self._undo, self._after):
            while actions:
                with shielded("undoing an instrumentation"):
                    actions.pop()()

    def _switchable(self, original: Function, ours: Function, *, is_coroutine: bool) -> Function:
        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (ours if self._active else original)(*args, **kwargs)

        if is_coroutine:
            # Servers ask an application what it is before they call it (uvicorn does). A coroutine
            # function in its place would take any arguments: uvicorn tries it out without any.
            mark_coroutine_function(call)
        return call


def _callable_unbound(original: Function) -> Function:
    """The function of a class, as one that takes the instance first.

    What another tool put there may learn its instance from `__get__` alone (wrapt's wrappers do).
    """
    kind = type(original)  # not isinstance: wrapt's wrappers pass themselves off as functions
    if kind is types.FunctionType or not hasattr(kind, "__get__"):
        return original

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not args:  # no instance to bind: what is wrong with that, the original says
            return original(**kwargs)
        return cast("Any", original).__get__(args[0], type(args[0]))(*args[1:], **kwargs)

    return call


def mark_coroutine_function(function: Function) -> None:
    """Have it pass for one that was defined by `async def`."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    else:
        vars(function)["_is_coroutine"] = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # noqa: SLF001 - what 3.12 has a function for


def is_coroutine_function(function: Function) -> bool:
    """Whether it was defined by `async def`, or passes for one that was."""
    if sys.version_info >= (3, 12):
        return inspect.iscoroutinefunction(function)
    return asyncio.iscoroutinefunction(function)


def _restore(owner: object, name: str, ours: object, before: object) -> None:
    if vars(owner).get(name) is not ours:
        return  # wrapped again by somebody else, who still calls us
    if before is _MISSING:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


class Joined(wrapt.ObjectProxy):  # type: ignore[misc]  # wrapt ships no types
    """An object with some of its methods wrapped, and all else its own."""

    def __init__(self, wrapped: object, wrappers: Mapping[str, Function]) -> None:
        super().__init__(wrapped)
        for name, function in wrappers.items():
            setattr(self, f"_self_{name}", functools.partial(function, wrapped))
        self._self_names = frozenset(wrappers)

    def __getattribute__(self, name: str) -> Any:
        if name[:1] != "_" and name in super().__getattribute__("_self_names"):
            return super().__getattribute__(f"_self_{name}")
        return super().__getattribute__(name)

    def __enter__(self) -> Any:
        entered = self.__wrapped__.__enter__()
        return self if entered is self.__wrapped__ else entered

    def __exit__(self, *given: Any) -> Any:
        return self.__wrapped__.__exit__(*given)


def unjoined(client: object) -> object:
    """The object itself, of one that is joined."""
    return client.__wrapped__ if type(client) is Joined else client


@dataclass(frozen=True, slots=True)
class Integration:
    """How one library is instrumented.

    `package` is the import that shows that the application uses it, `needs` a module that must be
    importable for that ("" for none). `contrib` is OpenTelemetry's own instrumentation of it, "" for
    none; `others` are more of them. `install` is called once, after the import; what it does,
    `Patches.undo` undoes.
    """

    name: str
    package: str
    needs: str
    install: Callable[[Patches], None]
    contrib: str = ""
    others: Sequence[str] = ()

    def arm(self, patches: Patches) -> None:
        """Install it once the library was imported: now, where it is already."""
        installed: list[bool] = []
        theirs = [module for module in (self.contrib, *self.others) if module]

        def install(*, is_whole: bool) -> None:
            # Where it is contrib's module that imports the library, that one must be whole first.
            if installed or not patches.active or not (is_whole or not any(map(_is_begun, theirs))):
                return
            installed.append(True)
            with shielded(f"instrumenting {self.name}"):
                self.install(patches)

        patches.on_undo(when_imported(self.package, functools.partial(install, is_whole=False)))
        if self.package not in sys.modules:
            for module in theirs:
                patches.on_undo(when_imported(module, functools.partial(install, is_whole=True)))


def _is_begun(module: str) -> bool:
    """Whether a module is being imported right now, and not yet whole."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))


_waiting: dict[str, list[Callable[[], None]]] = {}  # by package; wrapt forgets none that it was told


def when_imported(package: str, action: Callable[[], None]) -> Callable[[], None]:
    """Act after `package` was imported: now, where it is already. Gives what takes that back."""
    if package in sys.modules:
        action()
        return lambda: None
    if package not in _waiting:
        _waiting[package] = []
        wrapt.register_post_import_hook(lambda _: _was_imported(package), package)
    _waiting[package].append(action)

    def forget() -> None:
        if action in _waiting.get(package, ()):
            _waiting[package].remove(action)

    return forget


def _was_imported(package: str) -> None:
    for action in _waiting.pop(package, ()):
        action()


def _parameter(name: str) -> inspect.Parameter:
    rest = name.removeprefix("**")
    return inspect.Parameter(rest, _EITHER if rest == name else inspect.Parameter.VAR_KEYWORD)


class Names:
    """The names of a function's parameters: arguments become a mapping by name, and go back."""

    __slots__ = ("_names", "_positional", "_signature", "_simple")

    def __init__(self, function: Function, parameters: Sequence[str] = ()) -> None:
        """`parameters` are the names where the function does not tell them (one written in C).

        `**name` is all further keywords.
        """
        self._signature = (
            inspect.Signature([_parameter(name) for name in parameters])
            if parameters
            else inspect.signature(function)
        )
        self._positional = tuple(self._signature.parameters)
        self._names = frozenset(self._positional)
        self._simple = all(each.kind is _EITHER for each in self._signature.parameters.values())

    def bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object] | None:
        """The arguments by name, defaults left out; None where they do not fit the function."""
        if self._simple and len(args) <= len(self._positional):
            call = dict(zip(self._positional, args, strict=False))
            if kwargs:
                if not (kwargs.keys().isdisjoint(call) and kwargs.keys() <= self._names):
                    return None
                call.update(kwargs)
            return call
        try:
            return dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError:
            return None

    def unbind(
        self, call: Mapping[str, object], positional: int
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """The same call as positional and keyword arguments, as many positional as the caller gave.

        Somebody else's wrapper may take just that form: it reads `args[0]`, or names its keywords.
        """
        if not self._simple:
            bound = inspect.BoundArguments(self._signature, dict(call))
            return bound.args, bound.kwargs
        named = dict(call)
        first: list[object] = []
        for name in self._positional[:positional]:
            if name not in named:
                break
            first.append(named.pop(name))
        return tuple(first), named
