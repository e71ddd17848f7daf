"""What is done before serving: train, convert, measure, write checkpoints."""
