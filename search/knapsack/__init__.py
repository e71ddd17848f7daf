"""A multiple-choice knapsack: convex hulls, greedy LP, Lagrangian bound, exact close."""
