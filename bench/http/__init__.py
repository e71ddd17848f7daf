"""What a request costs the event loop, by stage; started by ``python -m bench.http``."""
