"""Imports: bodies of any size, read as they come in, a record at a time."""
