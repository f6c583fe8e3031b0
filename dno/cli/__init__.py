"""The `dno` command: one file per group of commands, all imports of ours inside function bodies."""
