"""What keeps the book's numbers as they were made: seals of results and prose, and the archive."""
