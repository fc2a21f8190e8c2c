"""The topics of the shop's events."""

from __future__ import annotations

from typing import Final

ORDER_CREATED: Final = "order.created"
ORDER_CONFIRMED: Final = "order.confirmed"
ORDER_REJECTED: Final = "order.rejected"
PAYMENT_AUTHORIZED: Final = "payment.authorized"
PAYMENT_DECLINED: Final = "payment.declined"
STOCK_RESERVED: Final = "stock.reserved"
NOTIFICATION_SENT: Final = "notification.sent"
TOPICS: Final = (
    ORDER_CREATED,
    ORDER_CONFIRMED,
    ORDER_REJECTED,
    PAYMENT_AUTHORIZED,
    PAYMENT_DECLINED,
    STOCK_RESERVED,
    NOTIFICATION_SENT,
)
