"""The page for people at `/ui`: what a budget buys, answers at two budgets, load, clients."""
