"""Audits: some answered requests are run again at full size when nobody waits, and compared."""
