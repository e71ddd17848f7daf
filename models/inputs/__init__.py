"""What models take: one type per kind of input."""
