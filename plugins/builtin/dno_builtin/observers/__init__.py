"""Built-in observers, one a file."""
