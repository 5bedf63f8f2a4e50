"""A mail server appliance: SMTP and LMTP in, POP3 out, virtual domains in Maildir++, in one process."""

__version__ = "0.1.0"
