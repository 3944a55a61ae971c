"""What an able user would write instead of the service, and a server that does nothing."""
