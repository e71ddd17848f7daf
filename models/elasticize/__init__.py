"""Making a trained transformer elastic in closed form: rank, cut, refit. No gradient is needed.

`streams` observes the whole model on calibration inputs, `ranking` orders heads and units by what
they are worth there, `refit` fits the output maps of narrower and linear layers so that they give
what the whole layers gave, and `assembling` makes the result a model of the family `pruned`.
"""
