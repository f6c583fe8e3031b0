"""Built-in constraints, one a file."""
