"""Request encoding, response validation and error classification. No I/O here."""
