"""Tests of the whole pipe: real processes, a real database, a real broker."""
