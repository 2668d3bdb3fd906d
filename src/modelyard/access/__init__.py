"""Who may call the server, and what they may do: people, services, roles, projects and tokens."""
