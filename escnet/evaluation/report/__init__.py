"""The table and the report of an evaluation."""
