"""Which texts are sent, and in which form: validation, the query prefix, shortening, tokens. No I/O here."""
