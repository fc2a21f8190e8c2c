"""Traces on the OpenTelemetry SDK: providers that can be undone, processors that cannot hurt."""
