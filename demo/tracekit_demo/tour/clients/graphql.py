"""GraphQL: strawberry on FastAPI takes orders, gql gives them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import strawberry
from fastapi import FastAPI
from gql import Client, gql
from gql.transport.httpx import HTTPXTransport
from strawberry.fastapi import GraphQLRouter

from tracekit_demo.tour.clients.http import serve
from tracekit_demo.tour.order import port

if TYPE_CHECKING:
    from tracekit_demo.tour.order import HandOn, Order

_PLACE: Final = "mutation Place($order: String!) { place(order: $order) }"


def receive(name: str, hand_on: HandOn) -> None:
    def place(order: str) -> str:
        hand_on(json.loads(order))
        return "placed"

    def hello() -> str:
        return "a query is the least that a schema has"

    query = strawberry.type(type("Query", (), {"hello": strawberry.field(hello)}))
    mutation = strawberry.type(type("Mutation", (), {"place": strawberry.mutation(place)}))
    app = FastAPI(title=name)
    app.include_router(GraphQLRouter(strawberry.Schema(query, mutation)), prefix="/graphql")
    serve(app, name)


def sender(name: str) -> HandOn:
    url = f"http://127.0.0.1:{port(name)}/graphql"
    client = Client(transport=HTTPXTransport(url, timeout=20, trust_env=False))

    def send(order: Order) -> None:
        place = gql(_PLACE)
        place.variable_values = {"order": json.dumps(order)}
        client.execute(place)

    return send
