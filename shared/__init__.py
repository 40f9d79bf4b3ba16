"""What both images install: the data, its vocabulary, and the way to database and broker."""
