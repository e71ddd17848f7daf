"""How long steps take: latency profiles, and measuring them."""
