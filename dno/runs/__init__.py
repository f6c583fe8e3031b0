"""From a configuration to a run in a folder, and back."""
