"""tracekit: one flow, end to end, across HTTP and queues."""
