"""The mathematics of a run: what is climbed, the loop, what it gives. No files, no plugins."""
