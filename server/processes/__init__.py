"""The processes of one server: who starts them, and starts them again."""
