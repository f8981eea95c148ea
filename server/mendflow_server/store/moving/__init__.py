"""Move a whole store from an SQLite file to a PostgreSQL schema."""
