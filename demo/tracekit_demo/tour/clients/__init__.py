"""One client a module: `receive(name, hand_on)` takes orders for a station, `sender(name)` gives it some."""
