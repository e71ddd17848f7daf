"""Choosing a subnet: budgets, measured tables, exact search and the rule of the ECMT paper."""
