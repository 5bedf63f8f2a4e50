"""A mail server appliance: SMTP and LMTP in, POP3 out, mail relayed, virtual domains in Maildir++."""

__version__ = "0.1.0"
