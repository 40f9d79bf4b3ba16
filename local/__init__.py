"""What `make run`, `make demo` and the tests need to run real servers on one machine."""
