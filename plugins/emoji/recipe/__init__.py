"""How the embedded emoji model is made: `python -m recipe.NAME`, run from `plugins/emoji`."""
