"""The book's first page: its pictures, its findings in numbers, how long it takes to read."""
