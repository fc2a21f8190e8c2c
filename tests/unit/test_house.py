"""The house's rules that no linter knows: public names, what an import costs, names of attributes."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tracekit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tracekit"
MODULES = sorted(PACKAGE.rglob("*.py"))

CLIENTS = {
    *("kafka", "aiokafka", "confluent_kafka", "pika", "aio_pika", "stomp", "botocore", "boto3", "redis"),
    *("fastapi", "starlette", "uvicorn", "httpx", "requests", "aiohttp", "sqlalchemy", "structlog"),
    *("grpc", "google", "pytest"),
}
"""What the application brings: imported only where it is used."""


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- public names -----------------------------------------------------------------------------------


def test_all_lists_what_the_package_exposes() -> None:
    exposed = {
        alias.asname or alias.name
        for node in ast.walk(tree(PACKAGE / "__init__.py"))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tracekit")
        for alias in node.names
    }

    assert sorted(tracekit.__all__) == sorted(exposed)
    assert sorted(tracekit.__all__) == sorted(dir(tracekit))


@pytest.mark.parametrize("name", tracekit.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(tracekit, name).__doc__


def test_what_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="flow_id"):
        _ = tracekit.flow_id


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_no_name_that_another_keeps_to_itself(path: Path) -> None:
    taken = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module not in (None, "tracekit")
        for alias in node.names
        if alias.name.startswith("_") and (node.module or "").startswith("tracekit")
    ]

    assert taken == []


# -- what an import costs ---------------------------------------------------------------------------


def imported_by(program: str) -> set[str]:
    """The modules that a program has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return set(json.loads(done.stdout))


def test_importing_tracekit_imports_nothing_of_others() -> None:
    before = imported_by("")

    added = {module.partition(".")[0] for module in imported_by("import tracekit") - before}

    assert added <= {"tracekit", *sys.stdlib_module_names}


def test_using_the_public_names_imports_no_client_and_no_exporter() -> None:
    before = imported_by("")

    added = imported_by("import tracekit\nfor name in tracekit.__all__: getattr(tracekit, name)") - before

    assert {module for module in added if module.partition(".")[0] in CLIENTS} == set()
    assert {module for module in added if module.startswith("opentelemetry.exporter")} == set()


# -- one home for every fact ------------------------------------------------------------------------


def strings(module: ast.Module) -> Iterator[ast.Constant]:
    """The strings of a module, docstrings left out."""
    documentation = {
        id(node.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node


def test_attributes_of_messaging_are_quoted_in_semconv_only() -> None:
    quoted = [
        f"{name_of(path)}:{constant.lineno}: {constant.value!r}"
        for path in MODULES
        if path.name != "semconv.py"
        for constant in strings(tree(path))
        if re.match(r"messaging\.[a-z]", str(constant.value))
    ]

    assert quoted == []


# -- modules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_in_its_first_line_what_it_is(path: Path) -> None:
    first = (ast.get_docstring(tree(path)) or "").partition("\n")[0]

    # A noun phrase; not a sentence about the module, nor a list of what it does.
    assert re.match(r"[A-Za-z`]", first), "no docstring"
    assert not re.match(r"(?:this|these|it|here|we|utilit\w+|helpers?)\b", first, re.IGNORECASE)
    assert not re.match(r"(?:\w+ )?(?:provides|contains|implements|defines|handles)\b", first, re.IGNORECASE)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_has_a_name_that_says_nothing(path: Path) -> None:
    assert not {"utils", "util", "helpers", "common", "base", "manager", "misc"} & set(
        path.relative_to(PACKAGE).with_suffix("").parts
    )


# -- the licence ------------------------------------------------------------------------------------


def test_the_licence_is_the_standard_text_of_apache_2() -> None:
    # As https://www.apache.org/licenses/LICENSE-2.0.txt has it.
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()

    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
