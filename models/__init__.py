"""Elastic models: axes, subnets, plans, families and checkpoints."""
