"""The review page and the table on the terminal: both drawn from the same rows."""
