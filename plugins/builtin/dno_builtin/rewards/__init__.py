"""Built-in rewards, one a file."""
