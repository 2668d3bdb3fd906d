"""The control plane over HTTP: routes and OpenAPI derived from the operation table."""
