"""Built-in regularizers, one a file."""
