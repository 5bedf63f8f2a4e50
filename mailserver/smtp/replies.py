"""The replies of the SMTP dialogue that are always the same. Not here: those of `mta`."""

from __future__ import annotations

from mailserver.mail.reply import Reply

# -- session

OK = Reply(250, "2.0.0", "OK")
VRFY = Reply(252, "2.5.0", "Cannot VRFY user, but will accept message and attempt delivery")
EXPN = Reply(502, "5.7.0", "EXPN is not available")
HELP = Reply(214, "2.0.0", "See RFC 5321. Questions go to the postmaster of this host")
TLS_READY = Reply(220, "2.0.0", "Ready to start TLS")
NO_TLS = Reply(502, "5.5.1", "STARTTLS is not available")
NO_ARGUMENT = Reply(501, "5.5.4", "No argument allowed")
UNRECOGNIZED = Reply(500, "5.5.1", "Command not recognized")
LINE_TOO_LONG = Reply(500, "5.5.2", "Command line is too long")
BAD_LINE = Reply(500, "5.5.2", "Syntax error")
NO_END_OF_DATA = Reply(521, "5.6.0", "Bare CR or LF, and no end of data")
OUT_OF_STEP = Reply(421, "4.3.0", "Trouble of this server, closing the connection")
CLOSING = Reply(421, "4.3.2", "Service shutting down, try again later")
IDLE = Reply(421, "4.4.2", "Timeout, closing the connection")
EXPIRED = Reply(421, "4.4.2", "Session has lasted too long, closing the connection")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing the connection")
TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "Too many connections, try again later")

# -- AUTH (RFC 4954 §4, §6)

LOGGED_IN = Reply(235, "2.7.0", "Authentication successful")
NEEDS_LOGIN = Reply(530, "5.7.0", "Authentication required")
NEEDS_TLS = Reply(538, "5.7.11", "Encryption required, use STARTTLS first")
NO_MECHANISM = Reply(504, "5.5.4", "Unknown authentication mechanism")
CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
BAD_RESPONSE = Reply(501, "5.5.2", "Cannot read the authentication response")
RESPONSE_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
LOGGED_IN_ALREADY = Reply(503, "5.5.1", "Already authenticated")
TOO_MANY_LOGINS = Reply(421, "4.7.0", "Too many authentication attempts, closing the connection")
WRONG_LOGIN = Reply(535, "5.7.8", "Wrong name or password")
LOGIN_BUSY = Reply(454, "4.7.0", "Too many logins at once, try again later")
LOGIN_UNAVAILABLE = Reply(454, "4.7.0", "Authentication is not possible now, try again later")
LOGIN_DELAYED = Reply(454, "4.7.0", "Too many failed logins, try again later")

# -- a message

SENDER_OK = Reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient OK")
GO_AHEAD = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands")
NO_HELLO = Reply(503, "5.5.1", "Say hello first")
NO_MAIL = Reply(503, "5.5.1", "Need MAIL first")
NO_RECIPIENT = Reply(503, "5.5.1", "Need RCPT first: no valid recipients")
HELLO_SYNTAX = Reply(501, "5.5.4", "Syntax: hello, and the name of your host")
MAIL_SYNTAX = Reply(501, "5.1.7", "Syntax: MAIL FROM:<address> [parameters]")
RCPT_SYNTAX = Reply(501, "5.1.3", "Syntax: RCPT TO:<address> [parameters]")
BDAT_SYNTAX = Reply(501, "5.5.4", "Syntax: BDAT octets [LAST]")
VRFY_SYNTAX = Reply(501, "5.5.4", "Syntax: VRFY address")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognized or not implemented")
BAD_PARAMETER = Reply(501, "5.5.4", "Bad value of a parameter")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Address needs SMTPUTF8")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients, send the rest in another message")
TOO_BIG = Reply(552, "5.3.4", "Message exceeds the fixed maximum size")
HEADER_TOO_BIG = Reply(552, "5.3.4", "Message header is too large")
MALFORMED_HEADER = Reply(554, "5.6.0", "Malformed header: a line before the first empty one is no field")
TOO_MANY_HOPS = Reply(554, "5.4.6", "Too many hops, this message is going in circles")
FORWARDED_BEFORE = Reply(554, "5.4.6", "This message was forwarded from here before, it is going in circles")
