"""What happens when things break: a real server, a fault, and clients that must not notice."""
