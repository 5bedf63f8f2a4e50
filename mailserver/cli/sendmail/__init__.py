"""`mailserver sendmail`: what programs of this machine call to send mail, in place of /usr/sbin/sendmail.

command   the options that scripts give, and the exit codes they know (sysexits.h)
letter    the message from standard input, made fit for SMTP, and what its header says
people    who sends, and to whom
client    handing it over in an SMTP dialogue
ways      to whom: the running server's socket, or a private server in this process
"""
