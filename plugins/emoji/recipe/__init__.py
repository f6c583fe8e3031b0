"""How the embedded emoji model is made: one command a module, run from `plugins/emoji` as `python -m recipe.NAME`."""
