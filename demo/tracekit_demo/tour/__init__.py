"""The grand tour: one order that goes through every system there is, in a process each."""
