"""Training: losses as pure functions, data sets, and one recipe per family."""
