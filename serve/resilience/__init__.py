"""What keeps the request path standing under load and failure."""
