"""The `postroom` command: speaks REST only, and imports nothing of the images."""
