"""The flow header on carriers: what begins a flow, what goes on in one, and what leaks into neither."""

from __future__ import annotations

import time
from importlib.metadata import entry_points

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tracekit import context as ours
from tracekit import guard
from tracekit.pathway import NO_FLOW, Pathway, parse, write
from tracekit.tracing.propagator import Arrival, FlowPropagator, arriving, composite
from tracekit.tracing.trust import giving_little

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
FLOW = "11112222333344445555666677778888"
HEADER = f"1;{FLOW};0123456789abcdef;1700000000000;1700000000500;2;web"
HERE = Pathway("f" * 32, hash=7, origin_ns=5, hop=3, origin="elsewhere")
NOW = 1_800_000_000_000_000_000

propagator = composite("orders")
tracer = TracerProvider().get_tracer("tests")


@pytest.fixture(autouse=True)
def fixed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW)


def headers_from(context: Context) -> dict[str, str]:
    headers: dict[str, str] = {}
    propagator.inject(headers, context)
    return headers


def flow_header(context: Context) -> Pathway | None:
    return parse(headers_from(context).get("tracekit-flow", ""))


def within(context: Context) -> Context:
    """The context of a span that begins in this one."""
    return trace.set_span_in_context(tracer.start_span("work", context), context)


# -- what arrives -----------------------------------------------------------------------------------


def test_a_header_says_where_its_context_stands() -> None:
    context = propagator.extract({"traceparent": PARENT, "tracekit-flow": HEADER})

    assert ours.pathway_of(context) == parse(HEADER)
    assert guard.dropped() == {}


def test_without_a_header_a_flow_begins_and_takes_the_id_of_its_first_span() -> None:
    context = within(propagator.extract({}))

    span = trace.get_current_span(context).get_span_context()
    assert ours.pathway_of(context) == Pathway(f"{span.trace_id:032x}", origin_ns=NOW, origin="orders")


def test_behind_a_service_that_knows_only_traceparent_the_flow_is_the_trace() -> None:
    assert ours.flow_id(within(propagator.extract({"traceparent": PARENT}))) == TRACE


@pytest.mark.parametrize(
    "header",
    ["", "nonsense", HEADER.replace("1;", "2;", 1), HEADER.upper(), HEADER[:40], HEADER * 9, "1;;;;;;", None],
)
def test_a_malformed_header_is_counted_and_as_good_as_absent(header: object) -> None:
    carrier = {"traceparent": [PARENT], "tracekit-flow": [header]}

    context = propagator.extract(carrier)

    assert ours.flow_id(context) == TRACE
    assert guard.dropped() == {"invalid_flow_header": 1}


@pytest.mark.parametrize(
    ("plausible", "implausible"),
    [
        (";1700000000000;", ";1420070399999;"),
        (";1700000000000;", ";0;"),
        (";1700000000000;", ";4102444800001;"),
        (";1700000000500;", ";1700000000;"),
        (";1700000000500;", ";1700000000500000;"),
        (";2;", ";100001;"),
    ],
)
def test_implausible_numbers_are_as_good_as_no_header(plausible: str, implausible: str) -> None:
    carrier = {"traceparent": PARENT, "tracekit-flow": HEADER.replace(plausible, implausible)}

    assert ours.flow_id(propagator.extract(carrier)) == TRACE
    assert guard.dropped() == {"invalid_flow_header": 1}


def test_what_is_sent_after_the_longest_way_is_read_again() -> None:
    longest = parse(HEADER.replace(";2;", ";100000;"))
    assert longest is not None

    assert parse(write(longest.leaving("orders", "send", NOW))) is not None


def test_two_headers_contradict_each_other_and_count_for_nothing() -> None:
    context = propagator.extract({"traceparent": [PARENT], "tracekit-flow": [HEADER, HEADER]})

    assert ours.flow_id(context) == TRACE
    assert guard.dropped() == {"invalid_flow_header": 1}


def test_the_flow_goes_on_where_the_trace_has_to_begin_anew() -> None:
    context = propagator.extract({"traceparent": [PARENT, PARENT], "tracekit-flow": [HEADER]})

    assert ours.flow_id(context) == FLOW
    assert not trace.get_current_span(context).get_span_context().is_valid


# -- inside of another flow -------------------------------------------------------------------------


@pytest.mark.parametrize("carrier", [{}, {"traceparent": PARENT}, {"tracekit-flow": "nonsense"}])
def test_nothing_ambient_leaks_into_what_arrives_without_a_context(carrier: dict[str, str]) -> None:
    token = otel.attach(within(baggage.set_baggage("a", "1", ours.with_pathway(HERE, Context()))))
    try:
        context = propagator.extract(carrier)
    finally:
        otel.detach(token)

    pathway = ours.pathway_of(context)
    assert pathway is not None
    assert (pathway.flow_id or TRACE, pathway.origin) == (TRACE, "orders")
    assert baggage.get_all(context) == {}


def test_a_message_with_only_a_traceparent_leaves_the_flow_that_it_is_read_in() -> None:
    context = propagator.extract({"traceparent": PARENT}, within(ours.with_pathway(HERE, Context())))

    assert ours.flow_id(context) == TRACE


def test_a_message_with_a_header_leaves_the_flow_that_it_is_read_in() -> None:
    context = propagator.extract({"tracekit-flow": HEADER}, within(ours.with_pathway(HERE, Context())))

    assert ours.flow_id(context) == FLOW


@pytest.mark.parametrize(
    "here",
    [
        within(ours.with_pathway(HERE, Context())),
        ours.with_pathway(HERE, Context()),
        propagator.extract({"traceparent": PARENT}, ours.with_pathway(HERE, Context())),
        propagator.extract({"traceparent": PARENT, "tracekit-flow": HEADER}),
    ],
)
def test_a_carrier_that_brings_nothing_leaves_the_context_as_it_was(here: Context) -> None:
    assert propagator.extract({}, here) == here
    assert propagator.extract({"traceparent": []}, here) == here


# -- what leaves ------------------------------------------------------------------------------------


def test_a_header_is_written_one_step_further() -> None:
    arrived = parse(HEADER)
    assert arrived is not None

    context = propagator.extract({"traceparent": PARENT, "tracekit-flow": HEADER})
    sent = flow_header(ours.with_step("send kafka orders", context))

    assert sent == arrived.leaving("orders", "send kafka orders", NOW)
    assert (sent.hop, sent.origin, sent.edge_ns, sent.flow_id) == (3, "web", NOW, FLOW)


def test_the_route_of_a_request_is_named_http_where_nobody_said() -> None:
    context = propagator.extract({"traceparent": PARENT, "tracekit-flow": HEADER})

    assert flow_header(context) == flow_header(ours.with_step("http", context))
    assert flow_header(context) != flow_header(ours.with_step("send kafka orders", context))


def test_a_flow_that_begins_with_a_span_nobody_told_anything_is_written_whole() -> None:
    context = within(Context())
    span = trace.get_current_span(context).get_span_context()

    assert flow_header(context) == Pathway(f"{span.trace_id:032x}", origin_ns=NOW, origin="orders").leaving(
        "orders", "http", NOW
    )


def test_a_hub_says_that_it_serves_several_flows() -> None:
    sent = flow_header(ours.with_pathway(Pathway(NO_FLOW), Context()))

    assert sent is not None
    assert sent.is_hub


@pytest.mark.parametrize("context", [Context(), ours.with_pathway(Pathway("", origin_ns=5), Context())])
def test_nothing_is_written_where_there_is_no_flow(context: Context) -> None:
    assert headers_from(context) == {}


def test_a_host_that_is_not_trusted_gets_the_traceparent_and_no_more() -> None:
    carrier = {"traceparent": PARENT, "tracestate": "a=1", "baggage": "b=2", "tracekit-flow": HEADER}

    headers = headers_from(giving_little(propagator.extract(carrier)))

    assert headers == {"traceparent": PARENT}


def test_everything_arrives_as_it_left() -> None:
    context = baggage.set_baggage(
        "tier", "gold", ours.with_pathway(HERE._replace(origin_ns=NOW), within(Context()))
    )

    arrived = propagator.extract(headers_from(context))

    left = trace.get_current_span(context).get_span_context()
    came = trace.get_current_span(arrived).get_span_context()
    assert (came.trace_id, came.span_id, came.is_remote) == (left.trace_id, left.span_id, True)
    assert baggage.get_all(arrived) == {"tier": "gold"}
    assert ours.flow_id(arrived) == HERE.flow_id


# -- arrivals ---------------------------------------------------------------------------------------


def arrive(arrival: Arrival, carrier: dict[str, str], by: CompositePropagator | None = None) -> Context:
    token = otel.attach(arriving(arrival, Context()))
    try:
        return (by or propagator).extract(carrier)
    finally:
        otel.detach(token)


def test_an_arrival_hands_its_checkpoint_in_and_tells_what_was_brought() -> None:
    arrival = Arrival(ours.Checkpoint())

    context = arrive(arrival, {"traceparent": PARENT, "tracekit-flow": HEADER})

    assert ours.checkpoint_of(context) is arrival.checkpoint
    assert (arrival.brought_flow, arrival.pathway) == (True, parse(HEADER))


def test_an_arrival_without_a_flow_is_an_entry() -> None:
    arrival = Arrival(ours.Checkpoint())

    arrive(arrival, {"traceparent": PARENT})

    assert (arrival.brought_flow, arrival.pathway) == (False, Pathway("", origin_ns=NOW, origin="orders"))


@pytest.mark.parametrize(
    "by",
    [
        composite("orders"),
        CompositePropagator(
            [TraceContextTextMapPropagator(), W3CBaggagePropagator(), FlowPropagator("orders")]
        ),
    ],
    ids=["ours", "stock"],
)
def test_nothing_but_a_link_is_taken_from_whom_is_not_trusted(by: CompositePropagator) -> None:
    carrier = {"traceparent": PARENT, "tracestate": "a=1", "baggage": "b=2", "tracekit-flow": HEADER}
    arrival = Arrival(ours.Checkpoint(), trusted=False)

    context = arrive(arrival, carrier, by)

    assert not trace.get_current_span(context).get_span_context().is_valid
    assert baggage.get_all(context) == {}
    assert ours.pathway_of(context) == Pathway("", origin_ns=NOW, origin="orders")
    assert arrival.caller is not None
    assert f"{arrival.caller.trace_id:032x}" == TRACE


def test_an_arrival_counts_once() -> None:
    arrival = Arrival(trusted=False)

    arrive(arrival, {})

    assert ours.flow_id(arrive(arrival, {"tracekit-flow": HEADER})) == FLOW


# -- names and the environment ----------------------------------------------------------------------


def test_the_entry_point_makes_one_without_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop%20floor,service.version=1")
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    (entry,) = entry_points(group="opentelemetry_propagator", name="tracekit")
    headers: dict[str, str] = {}

    entry.load()().inject(headers, within(Context()))

    sent = parse(headers["tracekit-flow"])
    assert sent is not None
    assert sent.origin == "shop floor"


@pytest.mark.parametrize(("named", "origin"), [("billing", "billing"), ("", "shop"), (None, "shop")], ids=str)
def test_the_service_s_own_variable_goes_first(
    named: str | None, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=shop")
    if named is None:
        monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    else:
        monkeypatch.setenv("OTEL_SERVICE_NAME", named)
    headers: dict[str, str] = {}

    FlowPropagator().inject(headers, within(Context()))

    sent = parse(headers["tracekit-flow"])
    assert sent is not None
    assert sent.origin == origin


def test_the_names_of_the_standard_variable_are_joined_with_the_flow_last() -> None:
    joined = composite("orders", ["tracekit", "tracecontext", "baggage", "tracecontext"])

    assert joined.fields == {"traceparent", "tracestate", "baggage", "tracekit-flow"}
    assert ours.flow_id(joined.extract({"traceparent": PARENT})) == TRACE
    assert composite("orders", ["none"]).fields == set()


def test_a_name_that_nobody_offers_is_an_error_that_helps() -> None:
    with pytest.raises(ValueError, match=r"OTEL_PROPAGATORS names 'b4', which .* known here: .*tracecontext"):
        composite("orders", ["b4"])
