"""Metrics, logs, traces, and the event-loop watchdog."""
