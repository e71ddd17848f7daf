"""Documents that clients keep here with their vectors: few, exact, bounded; no vector database."""
