"""Ways to run Rheostat that are no part of the package."""
