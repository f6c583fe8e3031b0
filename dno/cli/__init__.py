"""The `dno` command: one file per group of commands. Other rooms are imported inside functions."""
