"""Every socket of the server: endpoints, listeners, TLS, and the driver of line sessions."""
