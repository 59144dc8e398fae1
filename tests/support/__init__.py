"""What every test outside Rust stands on: packages, a PostgreSQL of its own, a gateway of its own, a report."""
