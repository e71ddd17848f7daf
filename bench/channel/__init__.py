"""What a process of the engine costs on the way there and back."""
