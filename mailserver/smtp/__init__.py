"""SMTP and LMTP: the dialogue as a state machine, and the one subclass of aiosmtpd that hosts it."""
