"""Messages across any broker: one abstraction, one engine, and the scopes in which work is done."""
