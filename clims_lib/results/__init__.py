"""What was measured: tables, claims and the report made from them."""
