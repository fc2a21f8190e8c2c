"""Names of attributes, spans, metrics and their buckets: OpenTelemetry conventions 1.44, and ours.

Every name that tracekit writes or reads stands here once. What begins with `tracekit.` is ours: the
conventions have no word for it. Source: semantic-conventions v1.44.0, `docs/messaging`, `docs/http`.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from tracekit.model import Kind

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

Operation: TypeAlias = Literal["create", "send", "receive", "process", "settle"]
"""The operation types. A message is created in a span of its own where a call sends several."""

# Resource and general
SERVICE_NAME: Final = "service.name"
SERVICE_NAMESPACE: Final = "service.namespace"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
EXCEPTION_EVENT: Final = "exception"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

# HTTP
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
URL_FULL: Final = "url.full"
URL_PATH: Final = "url.path"
URL_QUERY: Final = "url.query"
URL_TEMPLATE: Final = "url.template"
HTTP_REQUEST_RESEND_COUNT: Final = "http.request.resend_count"

# Remote calls
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_RESPONSE_STATUS_CODE: Final = "rpc.response.status_code"
GRAPHQL_OPERATION_NAME: Final = "graphql.operation.name"
GRAPHQL_OPERATION_TYPE: Final = "graphql.operation.type"

# Messaging
MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_DESTINATION_TEMPLATE: Final = "messaging.destination.template"
MESSAGING_DESTINATION_PARTITION_ID: Final = "messaging.destination.partition.id"
MESSAGING_DESTINATION_SUBSCRIPTION_NAME: Final = "messaging.destination.subscription.name"
MESSAGING_CONSUMER_GROUP_NAME: Final = "messaging.consumer.group.name"
MESSAGING_CLIENT_ID: Final = "messaging.client.id"
MESSAGING_BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_MESSAGE_CONVERSATION_ID: Final = "messaging.message.conversation_id"
MESSAGING_MESSAGE_BODY_SIZE: Final = "messaging.message.body.size"
MESSAGING_KAFKA_OFFSET: Final = "messaging.kafka.offset"
MESSAGING_KAFKA_MESSAGE_KEY: Final = "messaging.kafka.message.key"
MESSAGING_KAFKA_MESSAGE_TOMBSTONE: Final = "messaging.kafka.message.tombstone"
MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG: Final = "messaging.rabbitmq.message.delivery_tag"
MESSAGING_GCP_PUBSUB_MESSAGE_ORDERING_KEY: Final = "messaging.gcp_pubsub.message.ordering_key"
MESSAGING_GCP_PUBSUB_MESSAGE_DELIVERY_ATTEMPT: Final = "messaging.gcp_pubsub.message.delivery_attempt"
MESSAGING_GCP_PUBSUB_MESSAGE_ACK_DEADLINE: Final = "messaging.gcp_pubsub.message.ack_deadline"
AWS_REQUEST_ID: Final = "aws.request_id"
AWS_SQS_QUEUE_URL: Final = "aws.sqs.queue.url"
AWS_SNS_TOPIC_ARN: Final = "aws.sns.topic.arn"
# Names that others still emit: read, never written.
OLD_MESSAGING_DESTINATION: Final = "messaging.destination"
OLD_MESSAGING_KAFKA_PARTITION: Final = "messaging.kafka.partition"
OLD_MESSAGING_KAFKA_DESTINATION_PARTITION: Final = "messaging.kafka.destination.partition"
OLD_MESSAGING_KAFKA_OFFSET: Final = "messaging.kafka.message.offset"
OLD_MESSAGING_KAFKA_CONSUMER_GROUP: Final = "messaging.kafka.consumer.group"
OLD_MESSAGING_OPERATION: Final = "messaging.operation"
OLD_HTTP_METHOD: Final = "http.method"
OLD_HTTP_STATUS_CODE: Final = "http.status_code"
OLD_HTTP_URL: Final = "http.url"

# Ours, on spans, links and log lines
FLOW_ID: Final = "tracekit.flow.id"
"""Trace id of the flow's entry span, 32 hex digits. A hub has none; each of its links has one."""
PATHWAY_HASH: Final = "tracekit.pathway.hash"
"""The route that led here, 16 hex digits: the same services and destinations give the same hash."""
PUBLISHED_AT: Final = "tracekit.messaging.published_at"
"""When the message was published: int, Unix ns. On a process span, or on its links in a batch."""
PUBLISHED_AT_SOURCE: Final = "tracekit.messaging.published_at.source"
"""Who says so: `broker`, `header` (ours), `client` (a client's timestamp)."""
CONTEXT_STATE: Final = "tracekit.messaging.context"
"""Why a message has no creation context. Process span: `absent`, `invalid`. Send span: `skipped`."""
DELIVERY_ATTEMPT: Final = "tracekit.messaging.delivery.attempt"
"""Which attempt to deliver the message this is, where the broker counts them: int, 1 for the first."""
REDELIVERED: Final = "tracekit.messaging.redelivered"
"""True: the broker has delivered the message before, whether or not it says how often."""
DEAD_LETTER_REASON: Final = "tracekit.messaging.dead_letter.reason"
"""Why the broker took the message out of its queue before, in its own word: `rejected`, `expired`."""
REQUEUE: Final = "tracekit.messaging.requeue"
"""On the settling of a message that was refused: whether the broker is to deliver it again."""
RETRIES: Final = "tracekit.messaging.retries"
"""How often the client sent a message again before its send ended: int, not there where it did not."""
RETRY_EVENT: Final = "tracekit.messaging.retry"
"""Event: the client decided to send the message once more. Only the first ones of a send have theirs."""
CONTEXT_SAMPLED: Final = "tracekit.context.sampled"
"""False: the context that came was not sampled, so its span exists nowhere. On a span it speaks of
the remote parent, on a link of that link."""
DROP_REASON: Final = "tracekit.reason"
"""Why something of ours was left out: one of `guard.Reason`."""
CANCELLED: Final = "tracekit.cancelled"
"""True: the work was cancelled (asyncio.CancelledError), neither done nor failed."""
LEAKED: Final = "tracekit.leaked"
"""True: the turn of a loop whose iterator outlived it; ended when that was noticed."""
FLOW_COMPLETION_MS: Final = "tracekit.flow.completion_ms"
"""On the span of a processing that sent nothing on: int, ms from the flow's beginning to its end."""
FLOW_END: Final = "tracekit.flow.end"
"""Metric label: where a flow ended: `process` (a message that sent nothing on) or `request`."""
FLOW_ORIGIN: Final = "tracekit.flow.origin"
"""Metric label: the service where the flow began."""
WAIT: Final = "tracekit.messaging.wait"
"""True: no work, but the time of a message in its queue, for viewers that draw spans and nothing else."""
IN_BATCH: Final = "tracekit.messaging.in_batch"
"""Metric label, true: the processing of one message of a batch. Its time is in that of the batch too."""
WAIT_SOURCE: Final = "tracekit.messaging.wait.source"
"""Metric label: as PUBLISHED_AT_SOURCE."""

# Metrics
RPC_CLIENT_CALL_DURATION: Final = "rpc.client.call.duration"
RPC_SERVER_CALL_DURATION: Final = "rpc.server.call.duration"
CLIENT_OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"
SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
QUEUE_DURATION: Final = "tracekit.messaging.queue.duration"
LOST_MESSAGES: Final = "tracekit.messaging.lost.messages"
FLOW_DURATION: Final = "tracekit.flow.duration"
DROPPED: Final = "tracekit.dropped"

SECONDS: Final = "s"
MESSAGES: Final = "{message}"

DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Bucket boundaries in seconds. Source: conventions 1.44, messaging and HTTP metrics alike."""
QUEUE_BUCKETS: Final = (*DURATION_BUCKETS, 30, 60, 300, 1800, 7200)
"""Ours: messages wait longer than calls take."""

_KINDS: Final[dict[str, Kind]] = {
    "create": Kind.PRODUCER,
    "send": Kind.PRODUCER,
    "receive": Kind.CLIENT,
    "process": Kind.CONSUMER,
    "settle": Kind.CLIENT,
}


def messaging_kind(operation: Operation, *, own_context: bool = True) -> Kind:
    """The kind of a messaging span.

    A send whose own context is not the message's creation context (`own_context` False: the caller
    put one there) is a CLIENT. Source: conventions 1.44, messaging spans, "Span kind".
    """
    if operation == "send" and not own_context:
        return Kind.CLIENT
    return _KINDS[operation]


def messaging_span_name(operation_name: str, destination: str) -> str:
    """`{operation} {destination}`, or the operation alone where the destination is not known."""
    return f"{operation_name} {destination}" if destination else operation_name


def wait_span_name(destination: str) -> str:
    """`wait {destination}`: of the spans that show the time of a message in its queue."""
    return messaging_span_name("wait", destination)
