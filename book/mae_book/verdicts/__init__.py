"""What was claimed and what was found: claims with their tests, results, the ledger, and what is
stale."""
