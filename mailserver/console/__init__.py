"""Front ends of the administration: control socket, telnet, Perspective Broker. Not here: what is asked."""
