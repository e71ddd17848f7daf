"""Sockets to routes: connections, heads, middleware, paths, scopes, errors as responses."""
