"""Migrations of the clients' database, run at the server's start."""
