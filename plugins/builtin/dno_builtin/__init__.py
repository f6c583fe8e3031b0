"""The plugins that come with `dno`, published through the same entry points as anybody's."""
