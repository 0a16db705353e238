"""Rolling updates under load: what an operator does, and what the clients notice of it."""
