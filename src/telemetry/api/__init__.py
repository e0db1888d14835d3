"""The HTTP API: routes over views, sharing and accounts. What is shown is decided below it, never here."""
