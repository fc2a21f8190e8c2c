"""The pytest plugin: fixtures that give the flows of a test, and markers that hold them to a budget."""
