"""The shop that `tracekit demo` starts: its services, its broker, its orders."""
