"""The shop: six programs that take an order, written as their authors would write them.

`orders`, `payment`, `inventory` and `notification` serve HTTP and consume events in a thread; `analytics`
and `audit` are one plain loop over a consumer. All that they know of tracekit is one line,
`tracekit.configure(...)`, and in that thread `with tracekit.process(message)`: what a handler raises
is the message's error there, and the loop goes on.

An order is `{"mode", "sku", "quantity", "card"}`, posted to `/orders`:

    sync     orders calls payment, then inventory, then notification: 201
    async    orders publishes order.created: 202; payment, inventory, notification take it from there
    hybrid   payment and stock by HTTP, then orders publishes order.confirmed: 202

How it ends is decided by its content:

    card 4242424242424242   accepted
    card 4000000000000002   declined: 402, or the event payment.declined
    card 4242               malformed: payment answers 422, or refuses the event (order.rejected)
    card 4000000000000119   crashed: payment raises, 500; as a consumer it goes on with the next event
    quantity 0              malformed, refused by orders itself: 422

What goes wrong beside that is switched on from outside (see `faults`).
"""
