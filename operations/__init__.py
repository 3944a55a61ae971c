"""What is done to a deployment beside serving: its logins, its metrics' copies and backups, its passwords' rotation."""
