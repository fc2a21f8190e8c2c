"""GraphQL: strawberry on FastAPI as server, gql as client, over a real server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import strawberry
from fastapi import FastAPI
from gql import Client, gql
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport, HTTPXTransport
from opentelemetry import trace
from strawberry.fastapi import GraphQLRouter

from tests.acceptance.http_rig import serving
from tests.conventions.checker import violations
from tracekit.model import Kind, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracekit.model import Span
    from tracekit.testing import Captured

tracer = trace.get_tracer("tests")


@strawberry.type
class Query:
    @strawberry.field
    def order(self, id: int) -> str:  # noqa: A002 - GraphQL's own word
        if id == 0:
            raise ValueError("secret=abc")
        with tracer.start_as_current_span("work"):
            return f"order {id}"


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def place(self, name: str) -> str:
        with tracer.start_as_current_span("work"):
            return f"placed {name}"


SCHEMA = strawberry.Schema(Query, Mutation)


@pytest.fixture
def url(flows: Captured) -> Iterator[str]:
    app = FastAPI()
    app.include_router(GraphQLRouter(SCHEMA), prefix="/graphql")
    with serving(app) as address:
        yield f"{address}/graphql"


def named(flows: Captured, name: str, kind: Kind) -> Span:
    flows.wait_for(
        lambda: any(span.name == name and span.kind is kind for span in flows.spans), says=f"`{name}`, {kind}"
    )
    (found,) = [span for span in flows.spans if span.name == name and span.kind is kind]
    return found


def test_an_operation_is_a_span_by_its_type_and_name_on_either_side(url: str, flows: Captured) -> None:
    with Client(transport=HTTPXTransport(url)) as client:
        found = client.execute(gql("query Order { order(id: 7) }"))
    asked, served = named(flows, "query Order", Kind.INTERNAL), named(flows, "query Order", Kind.SERVER)
    called, took = named(flows, "POST", Kind.CLIENT), named(flows, "POST /graphql", Kind.SERVER)

    assert found == {"order": "order 7"}
    assert (called.parent_id, took.parent_id, served.parent_id) == (
        asked.span_id,
        called.span_id,
        took.span_id,
    )
    assert named(flows, "work", Kind.INTERNAL).parent_id == served.span_id
    assert served.attributes["graphql.operation.type"] == "query"
    assert served.attributes["graphql.operation.name"] == "Order"
    assert violations(flows.spans) == []


def test_an_error_inside_of_a_200_is_the_operation_s_on_either_side(url: str, flows: Captured) -> None:
    with Client(transport=HTTPXTransport(url)) as client, pytest.raises(TransportQueryError):
        client.execute(gql("query Order { order(id: 0) }"))
    asked, served = named(flows, "query Order", Kind.INTERNAL), named(flows, "query Order", Kind.SERVER)

    assert (served.status, served.attributes["error.type"]) == (Status.ERROR, "ValueError")
    assert (asked.status, asked.attributes["error.type"]) == (Status.ERROR, "TransportQueryError")
    assert named(flows, "POST /graphql", Kind.SERVER).attributes["http.response.status_code"] == 200


def test_by_asyncio_a_mutation_is_the_same(url: str, flows: Captured) -> None:
    async def place() -> Any:
        async with Client(transport=HTTPXAsyncTransport(url)) as session:
            return await session.execute(gql('mutation Place { place(name: "a lamp") }'))

    assert asyncio.run(place()) == {"place": "placed a lamp"}
    served = named(flows, "mutation Place", Kind.SERVER)
    assert named(flows, "work", Kind.INTERNAL).parent_id == served.span_id
    named(flows, "mutation Place", Kind.INTERNAL)


def test_a_document_that_cannot_be_read_is_an_error_without_a_name(url: str, flows: Captured) -> None:
    import httpx

    answer = httpx.post(url, json={"query": "query {"})
    served = named(flows, "GraphQL", Kind.SERVER)

    assert answer.status_code == 200
    assert answer.json()["errors"]
    assert served.status is Status.ERROR


def test_two_operations_at_once_keep_apart(url: str, flows: Captured) -> None:
    async def both() -> list[Any]:
        async with Client(transport=HTTPXAsyncTransport(url)) as session:
            asking = (
                session.execute(gql(f'mutation Place{number} {{ place(name: "{number}") }}'))
                for number in range(5)
            )
            return await asyncio.gather(*asking)

    assert len(asyncio.run(both())) == 5
    served = [named(flows, f"mutation Place{number}", Kind.SERVER) for number in range(5)]
    works = [span for span in flows.spans if span.name == "work"]
    assert {span.parent_id for span in works} == {span.span_id for span in served}
    assert len({span.trace_id for span in served}) == 5
