"""RabbitMQ, as the demo starts it."""

from tracekit_demo.servers.rabbitmq import RabbitMQ, rabbitmq

__all__ = ["RabbitMQ", "rabbitmq"]
