"""What the chapters show: badges, figures and tables, a module a subject."""
