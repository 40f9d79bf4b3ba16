"""What requests and responses look like, apart from how documents are stored."""
