"""Tests of local/: real servers, started and killed."""
