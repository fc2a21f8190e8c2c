"""Makes the shop's topics where they are missing: `python -m tracekit_demo.topics`, before the shop starts.

A Kafka that makes topics at their first use says "unknown topic" to who comes while it does.
"""

from __future__ import annotations

from contextlib import closing

from kafka.admin import KafkaAdminClient, NewTopic

from tracekit_demo.shop.events import kafka_settings
from tracekit_demo.shop.topics import TOPICS


def main() -> None:
    """Return once all of them are there."""
    with closing(KafkaAdminClient(**kafka_settings())) as admin:
        missing = sorted({*TOPICS} - {*admin.list_topics()})
        if missing:
            admin.create_topics([NewTopic(name, 1, 1) for name in missing])
    print(f"topics made: {', '.join(missing) or 'none, all are there'}")


if __name__ == "__main__":
    main()
